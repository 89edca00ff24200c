//! Whom an idle backend serves.

use super::*;

use crate::net::Dial;
use crate::net::tls::BackendTls;

#[tokio::test]
async fn a_backend_serves_those_of_its_kind_where_the_pod_is_now() {
    let (here, elsewhere) = (([10, 0, 0, 1], 5432).into(), ([10, 0, 0, 2], 5432).into());
    let kind = |memory: &str| Arc::new(vec![("work_mem".to_owned(), memory.to_owned())]);
    let target =
        Target { pod: PodId::new("a", "fixed"), address: here, tls: BackendTls::disabled(), dial: Dial::default() };
    let papers = Papers::fresh(Berth::new(target, None), kind("5MB"), Parameters::default(), Instant::now());
    assert!(papers.serves(&kind("5MB"), here), "equal, and not the same");
    assert!(!papers.serves(&kind("6MB"), here));
    assert!(!papers.serves(&kind("5MB"), elsewhere), "the pod has moved");
}
