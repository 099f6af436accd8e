//! Tests of the grant that each kind of client gets, and of what a narrower grant does not allow.

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::middleware::from_fn_with_state;
use axum::routing::get;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use reqwest::Method;

use super::Board;
use crate::access::{Grant, Operation, Subject};
use crate::web::authorizer::require_operation;

#[tokio::test]
async fn each_door_has_its_grant() {
    let mut open = Board::open().await;
    assert_eq!(open.signal("", &[]).await, Ok(()));
    assert_eq!(open.calls.recv().await.unwrap().grant.subject(), Subject::Loopback);
    let mut locked = Board::locked().await;
    let cookie = locked.cookie().await;
    let bearer = format!("Bearer {}", super::SECRET);
    for (header, subject) in [(("cookie", cookie), Subject::Login), (("authorization", bearer), Subject::Secret)] {
        let own = ("origin", format!("http://{}", locked.address));
        assert_eq!(locked.signal("", &[header, own]).await, Ok(()));
        assert_eq!(locked.calls.recv().await.unwrap().grant.subject(), subject);
    }
}

#[tokio::test]
async fn a_path_is_refused_to_a_grant_that_does_not_include_it() {
    let path = get(async || "served")
        .options(async || "")
        .layer(from_fn_with_state(Operation::ReadMetrics, require_operation));
    let router = TowerToHyperService::new(Router::new().route("/metrics", path));
    let asked = async |method: Method, grant: Option<Grant>| {
        let mut request = Request::builder().method(method.as_str()).uri("/metrics").body(Body::empty()).unwrap();
        grant.map(|grant| request.extensions_mut().insert(grant));
        router.call(request).await.unwrap().status().as_u16()
    };
    assert_eq!(asked(Method::GET, Some(Grant::secret())).await, 200);
    assert_eq!(asked(Method::GET, Some(Grant::broker_viewer())).await, 403);
    // Without the guard there is no grant.
    assert_eq!(asked(Method::GET, None).await, 401);
    assert_eq!(asked(Method::OPTIONS, None).await, 200);
}
