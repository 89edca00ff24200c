//! What the watches of one Kubernetes cluster say together, as the topology machine's events: pods, the leader, and whether
//! all this is still true.

use kube::api::DynamicObject;

use super::leader::{self, Claim};
use super::preset::{Labels, LeaderSource};
use super::sighting::{Reading, Sight};
use super::watch::{Trouble, Word};
use crate::topology::evidence::{Event, LeaderSighting};

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    /// The pods the selector matches.
    Pods,
    /// Patroni's lock on a ConfigMap.
    ConfigMap,
    /// Patroni's lock on an Endpoints object.
    Endpoints,
    /// CloudNativePG's Cluster.
    Cluster,
}

/// What is known of one leader object.
#[derive(Debug)]
enum Known<T> {
    /// Not heard of yet.
    Unheard,
    /// It may not be read, or there is no such kind of object.
    Denied,
    /// It was read; `None`: it is not there, or says nothing about a leader.
    Read(Option<T>),
}

impl<T> Known<T> {
    fn read(&self) -> Option<&T> {
        match self {
            Self::Read(found) => found.as_ref(),
            Self::Unheard | Self::Denied => None,
        }
    }
}

/// The pods and the leader objects of one cluster, as far as they were heard of.
#[derive(Debug)]
pub(super) struct Picture {
    reading: Reading,
    config_map: Known<Claim>,
    endpoints: Known<Claim>,
    cluster: Known<DynamicObject>,
    /// Sources that do not work. Never more than the four there are.
    broken: Vec<Source>,
    /// The last things said, so that nothing is said twice.
    leader: Option<LeaderSighting>,
    lost: bool,
}

/// What is not an event for the machine, but for the log.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Remark {
    /// A watch does not work any more.
    Broken(Source, String),
    /// The server does not let us watch this.
    Denied(Source, String),
    /// A watch works again.
    Works(Source),
    /// A pod object was skipped.
    Odd(&'static str),
}

impl Picture {
    /// An empty picture.
    pub(super) fn new(reading: Reading) -> Self {
        Self {
            reading,
            config_map: Known::Unheard,
            endpoints: Known::Unheard,
            cluster: Known::Unheard,
            broken: Vec::new(),
            leader: None,
            lost: false,
        }
    }

    /// Takes one word in.
    pub(super) fn hear(&mut self, source: Source, word: Word) -> (Vec<Event>, Vec<Remark>) {
        let mut events = Vec::new();
        let mut remarks = Vec::new();
        match word {
            Word::Listed(objects) => match source {
                Source::Pods => events.push(self.list(&objects, &mut remarks)),
                Source::ConfigMap | Source::Endpoints | Source::Cluster => {
                    self.learn(source, objects.into_iter().next())
                }
            },
            Word::Changed(object) => match source {
                Source::Pods => events.extend(self.pod(&object, &mut remarks)),
                Source::ConfigMap | Source::Endpoints | Source::Cluster => self.learn(source, Some(*object)),
            },
            Word::Gone(object) => match source {
                Source::Pods => events.extend(gone(&object)),
                Source::ConfigMap | Source::Endpoints | Source::Cluster => self.learn(source, None),
            },
            Word::Lost(trouble) => remarks.push(self.lose(source, trouble)),
            Word::Works => {
                self.broken.retain(|broken| *broken != source);
                remarks.push(Remark::Works(source));
            }
        }
        events.extend(self.verdict());
        events.extend(self.standing());
        (events, remarks)
    }

    /// The scope the pods of a list agree on; `Err` when they name several.
    pub(super) fn scope(&self, objects: &[DynamicObject]) -> Result<Option<String>, String> {
        let none = Labels::new();
        let mut found: Option<&str> = None;
        for object in objects {
            let labels = object.metadata.labels.as_ref().unwrap_or(&none);
            if !self.reading.preset.is_database(labels) {
                continue;
            }
            match (found, self.reading.preset.scope(labels)) {
                (Some(one), Some(other)) if one != other => {
                    return Err(format!("the selector matches pods of {one} and of {other}"));
                }
                (_, Some(scope)) => found = Some(scope),
                (_, None) => {}
            }
        }
        Ok(found.map(str::to_owned))
    }

    fn list(&self, objects: &[DynamicObject], remarks: &mut Vec<Remark>) -> Event {
        let mut pods = Vec::new();
        for object in objects {
            match self.reading.pod(object) {
                Sight::Database(pod) => pods.push(pod),
                Sight::Ended(_) | Sight::Stranger => {}
                Sight::Odd(why) => remarks.push(Remark::Odd(why)),
            }
        }
        Event::Relisted(pods)
    }

    fn pod(&self, object: &DynamicObject, remarks: &mut Vec<Remark>) -> Option<Event> {
        match self.reading.pod(object) {
            Sight::Database(pod) => Some(Event::PodSeen(pod)),
            Sight::Ended(id) => Some(Event::PodGone(id)),
            // It may have been a database pod before it was relabelled.
            Sight::Stranger => gone(object),
            Sight::Odd(why) => {
                remarks.push(Remark::Odd(why));
                None
            }
        }
    }

    fn learn(&mut self, source: Source, object: Option<DynamicObject>) {
        match source {
            Source::Pods => {}
            Source::ConfigMap => self.config_map = Known::Read(object.as_ref().and_then(Claim::read)),
            Source::Endpoints => self.endpoints = Known::Read(object.as_ref().and_then(Claim::read)),
            Source::Cluster => self.cluster = Known::Read(object),
        }
    }

    fn lose(&mut self, source: Source, trouble: Trouble) -> Remark {
        let deny = |known: &mut Known<Claim>| {
            if matches!(known, Known::Unheard) {
                *known = Known::Denied;
            }
        };
        if !self.broken.contains(&source) {
            self.broken.push(source);
        }
        match trouble {
            Trouble::Broken(why) => Remark::Broken(source, why),
            Trouble::Denied(why) => {
                match source {
                    Source::ConfigMap => deny(&mut self.config_map),
                    Source::Endpoints => deny(&mut self.endpoints),
                    Source::Pods | Source::Cluster => {}
                }
                Remark::Denied(source, why)
            }
        }
    }

    /// Who leads, if that is known and news. With two lock objects, not before both were heard of: the one that
    /// happens to come first may be the left-over.
    fn verdict(&mut self) -> Option<Event> {
        let sighting = match self.reading.preset.leader {
            LeaderSource::NotUsed => LeaderSighting::NotUsed,
            LeaderSource::Patroni => match (&self.config_map, &self.endpoints) {
                (Known::Unheard, _) | (_, Known::Unheard) | (Known::Denied, Known::Denied) => {
                    return None;
                }
                (config_map, endpoints) => leader::patroni(config_map.read(), endpoints.read()),
            },
            LeaderSource::CloudNativePg => match &self.cluster {
                Known::Unheard | Known::Denied => return None,
                Known::Read(cluster) => leader::cloudnative_pg(cluster.as_ref()),
            },
        };
        let news = self.leader.as_ref() != Some(&sighting);
        news.then(|| {
            self.leader = Some(sighting.clone());
            Event::LeaderSeen(sighting)
        })
    }

    /// Lost or restored, if that is news. Patroni uses one of its two kinds of lock object: where the other may not
    /// even be read, nothing is lost.
    fn standing(&mut self) -> Option<Event> {
        let spare = |source: &Source| match source {
            Source::ConfigMap => matches!(self.config_map, Known::Denied) && matches!(self.endpoints, Known::Read(_)),
            Source::Endpoints => matches!(self.endpoints, Known::Denied) && matches!(self.config_map, Known::Read(_)),
            Source::Pods | Source::Cluster => false,
        };
        let lost = !self.broken.iter().all(spare);
        if lost == self.lost {
            return None;
        }
        self.lost = lost;
        Some(if lost { Event::WatchLost } else { Event::WatchRestored })
    }
}

fn gone(object: &DynamicObject) -> Option<Event> {
    let (name, uid) = (object.metadata.name.as_ref()?, object.metadata.uid.as_ref()?);
    Some(Event::PodGone(crate::ids::PodId::new(name, uid)))
}
