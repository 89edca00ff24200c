//! Does to the cluster what the schedule says, mends it, and waits until it is whole: each event begins in a whole cluster.

use std::sync::Arc;
use std::time::Duration;

use crate::cluster::children::Signal;
use crate::cluster::faults::{self, Loss, Part};
use crate::cluster::kubelet::Kubelet;
use crate::cluster::patroni::PatroniCluster;
use crate::cluster::relay::Mode;
use crate::cluster::trouble::{Result, Trouble, eventually};
use crate::journal::Journal;
use crate::schedule::{Break, Event, Fault, Target};
use crate::stage::Stage;
use crate::wires::Wires;

/// How long a cluster may take to be whole again: a ttl, a promotion, a rewind, on a busy machine.
const WHOLE: Duration = Duration::from_secs(180);

/// One event as it took place.
#[derive(Clone, Debug)]
pub struct Happened {
    /// What its faults are called, together.
    pub name: String,
    /// When it began.
    pub began: Duration,
    /// When the cluster was whole again.
    pub whole: Duration,
}

/// Who is what, in a whole cluster.
struct Roles {
    primary: String,
    standby: String,
    other: String,
}

impl Roles {
    fn pod(&self, target: Target) -> &str {
        match target {
            Target::Primary => &self.primary,
            Target::Standby => &self.standby,
            Target::Other => &self.other,
        }
    }
}

/// The hand that breaks and mends.
pub struct Chaos {
    stage: Arc<Stage>,
    wires: Wires,
    journal: Arc<Journal>,
}

/// Undoes one fault.
enum Mending {
    Nothing,
    Thaw(String, Part),
    Return(String),
    Wire(String, Break),
    Api(Vec<String>),
    ApiServer,
    Continue(Vec<u32>),
}

impl Chaos {
    /// For this stage.
    pub fn new(stage: Arc<Stage>, wires: Wires, journal: Arc<Journal>) -> Self {
        Self { stage, wires, journal }
    }

    /// Plays one event, from the first fault to a whole cluster.
    pub async fn play(&self, event: &Event) -> Result<Happened> {
        let roles = self.whole(WHOLE).await?;
        tokio::time::sleep(event.quiet).await;
        let began = self.journal.now();
        let (primary, standby, other) = (&roles.primary, &roles.standby, &roles.other);
        self.tell(&format!("fault: {event} (primary {primary}, standby {standby}, other {other})"));
        let mut mendings = Vec::new();
        let mut trouble = None;
        for fault in &event.faults {
            match self.inject(*fault, &roles).await {
                Ok(mending) => mendings.push(mending),
                Err(other) => trouble = Some(other),
            }
        }
        if event.faults.iter().all(|fault| fault.momentary()) {
            // Long enough for the old state to be gone before anybody asks whether all is well.
            tokio::time::sleep(Duration::from_secs(2)).await;
        } else {
            tokio::time::sleep(event.lasting).await;
        }
        for mending in mendings.into_iter().rev() {
            self.mend(mending).await?;
        }
        self.tell("mended");
        if let Some(trouble) = trouble {
            return Err(Trouble::new(format!("{event}: {trouble}")));
        }
        self.whole(WHOLE).await?;
        self.tell("whole");
        let names: Vec<&str> = event.faults.iter().map(|fault| fault.name()).collect();
        Ok(Happened { name: names.join(" + "), began, whole: self.journal.now() })
    }

    fn tell(&self, what: &str) {
        self.journal.note(what);
        self.stage.tell(&format!("{:7.1} s  {what}", self.journal.now().as_secs_f64()));
    }

    /// Waits until all pods are ready, replicas stream, and Patroni has written down a synchronous standby.
    async fn whole(&self, limit: Duration) -> Result<Roles> {
        let cluster = &self.stage.cluster;
        cluster.wait_ready(3, limit).await?;
        let roles = || async {
            let primary = cluster.primary().await.ok()?;
            let path = "jsonpath={.metadata.annotations.leader} {.metadata.annotations.sync_standby}";
            let sync = cluster.kubectl(&["get", "configmap", "demo-sync", "-o", path]).await.ok()?;
            let (leader, standby) = sync.trim().split_once(' ')?;
            let pods = cluster.pods().await.ok()?;
            let name = |wanted: &str| pods.iter().find(|pod| pod.name == wanted).map(|pod| pod.name.clone());
            let standby = name(standby).filter(|standby| leader == primary && *standby != primary)?;
            let other = pods.iter().find(|pod| pod.name != primary && pod.name != standby)?.name.clone();
            Some(Roles { primary, standby, other })
        };
        let roles = eventually("a primary with a synchronous standby", limit, roles).await;
        match roles {
            Ok(roles) => Ok(roles),
            Err(trouble) => Err(Trouble::new(format!("{trouble}\n{}", cluster.logs(40).await))),
        }
    }

    async fn inject(&self, fault: Fault, roles: &Roles) -> Result<Mending> {
        let (cluster, kubelet, namespace) = self.parts();
        let pod = |target| roles.pod(target).to_owned();
        match fault {
            Fault::Delete(target) => {
                faults::delete_pod(cluster, &pod(target), None).await?;
                Ok(Mending::Nothing)
            }
            Fault::Kill(target) => faults::kill9(kubelet, namespace, &pod(target)).map(|()| Mending::Nothing),
            Fault::KillPostgres(target) => {
                faults::signal(kubelet, namespace, &pod(target), Part::Postgres, Signal::Kill)?;
                Ok(Mending::Nothing)
            }
            Fault::FreezePatroni(target) => self.freeze(pod(target), Part::Patroni),
            Fault::FreezePostgres(target) => self.freeze(pod(target), Part::Postgres),
            Fault::FreezePod(target) => self.freeze(pod(target), Part::Whole),
            Fault::LoseNode(target) => {
                faults::lose_node(kubelet, namespace, &pod(target), Loss::Frozen).await?;
                Ok(Mending::Return(pod(target)))
            }
            Fault::Wire(target, how) => {
                self.wires.cut(&pod(target), how);
                Ok(Mending::Wire(pod(target), how))
            }
            Fault::PatroniApi(target, how) => self.api(vec![pod(target)], how).await,
            Fault::MoorApi(how) => {
                let pods = self.stage.proxy.pods().await?;
                self.api(pods.into_iter().map(|pod| pod.name).collect(), how).await
            }
            Fault::ApiServer => {
                cluster.plane().stop_apiserver().await?;
                // They would take long pauses between their attempts to come back; a new start does not.
                cluster.plane().stop_controllers().await?;
                Ok(Mending::ApiServer)
            }
            Fault::Replication(target) => self.receiver(&pod(target)),
        }
    }

    fn parts(&self) -> (&PatroniCluster, &Kubelet, &str) {
        let cluster = &self.stage.cluster;
        (cluster, cluster.kubelet(), cluster.namespace())
    }

    fn freeze(&self, pod: String, part: Part) -> Result<Mending> {
        let (_, kubelet, namespace) = self.parts();
        faults::freeze(kubelet, namespace, &pod, part)?;
        Ok(Mending::Thaw(pod, part))
    }

    /// Breaks these pods' paths to the API server; a direction by itself makes no difference to a request with an answer.
    async fn api(&self, pods: Vec<String>, how: Break) -> Result<Mending> {
        let (_, kubelet, namespace) = self.parts();
        for pod in &pods {
            let path = kubelet.api_path(namespace, pod).await?;
            match how {
                Break::Reset => path.reset(),
                Break::Cut => path.set(Mode::Cut),
                Break::Stall | Break::StallAnswers => path.set(Mode::Stall),
                Break::Vanish | Break::VanishAnswers => path.set(Mode::Drop),
            }
        }
        Ok(Mending::Api(pods))
    }

    /// Stops the one process of a standby that receives WAL.
    fn receiver(&self, pod: &str) -> Result<Mending> {
        let (_, kubelet, namespace) = self.parts();
        let pids = faults::processes(kubelet, namespace, pod, "walreceiver")?;
        Signal::Stop.send(&pids)?;
        Ok(Mending::Continue(pids))
    }

    async fn mend(&self, mending: Mending) -> Result<()> {
        let (cluster, kubelet, namespace) = self.parts();
        match mending {
            Mending::Nothing => Ok(()),
            // Nobody left to thaw: the other fault took them.
            Mending::Thaw(pod, part) => faults::thaw(kubelet, namespace, &pod, part).or(Ok(())),
            Mending::Return(pod) => faults::return_node(kubelet, namespace, &pod).await,
            Mending::Wire(pod, how) => {
                self.wires.mend(&pod, how);
                Ok(())
            }
            Mending::Api(pods) => {
                for pod in pods {
                    let path = kubelet.api_path(namespace, &pod).await?;
                    path.set(Mode::Pass);
                    path.reset();
                }
                Ok(())
            }
            Mending::ApiServer => {
                cluster.plane().start_apiserver().await?;
                cluster.plane().start_controllers()
            }
            Mending::Continue(pids) => Signal::Cont.send(&pids),
        }
    }
}
