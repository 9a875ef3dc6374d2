//! Counts every request to the API server, as client-go does.
//!
//! The layer wraps the whole client: lists, watches, the Lease, the ledger, token reviews and Events pass
//! through it, each once, because nothing below it repeats a request. A request is counted when its response
//! begins, under the status of that response. A request without a response counts as an error. One reason is
//! the caller's own time limit: it drops the future, so a guard records the request when it is dropped.
//!
//! The duration of a request ends with its body. That of a watch ends with the response's head, because its
//! body lasts as long as the watch.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Method, Request, Response};
use http_body::{Frame, SizeHint};
use kube::client::Body;
use tokio::time::Instant;
use tower::{Layer, Service};

/// Receives what the layer observes. `method` is the HTTP method, `host` the API server's host and port.
pub trait Requests: Send + Sync {
    /// A response began with this status. `None`: there was no response.
    fn answered(&self, method: &'static str, host: &str, status: Option<u16>);
    /// Duration of a request, answered or not.
    fn took(&self, method: &'static str, host: &str, time: Duration);
}

/// Adds the counting to a client's service.
#[derive(Clone)]
pub struct Measure {
    requests: Arc<dyn Requests>,
    host: Arc<str>,
}

impl Measure {
    pub fn new(host: &str, requests: Arc<dyn Requests>) -> Measure {
        Measure { requests, host: host.into() }
    }
}

impl<S> Layer<S> for Measure {
    type Service = Measured<S>;

    fn layer(&self, inner: S) -> Measured<S> {
        Measured { inner, measure: self.clone() }
    }
}

#[derive(Clone)]
pub struct Measured<S> {
    inner: S,
    measure: Measure,
}

impl<S, B> Service<Request<Body>> for Measured<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = Response<Timed<B>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let mut under_way = UnderWay::begin(&self.measure, &request);
        let answer = self.inner.call(request);
        Box::pin(async move {
            let response = answer.await?;
            under_way.answered(response.status().as_u16());
            let (head, body) = response.into_parts();
            let until_its_end = (!under_way.is_watch).then_some(under_way);
            Ok(Response::from_parts(head, Timed { body, _under_way: until_its_end }))
        })
    }
}

/// A request that was sent. If it is dropped before its response begins, it was not answered.
struct UnderWay {
    measure: Measure,
    method: &'static str,
    is_watch: bool,
    begun: Instant,
    is_answered: bool,
}

impl UnderWay {
    fn begin(measure: &Measure, request: &Request<Body>) -> UnderWay {
        let mut parameters = request.uri().query().unwrap_or_default().split('&');
        UnderWay {
            measure: measure.clone(),
            method: label(request.method()),
            is_watch: parameters.any(|one| matches!(one, "watch=true" | "watch=1")),
            begun: Instant::now(),
            is_answered: false,
        }
    }

    fn answered(&mut self, status: u16) {
        self.is_answered = true;
        let Measure { requests, host } = &self.measure;
        requests.answered(self.method, host, Some(status));
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let Measure { requests, host } = &self.measure;
        if !self.is_answered {
            requests.answered(self.method, host, None);
        }
        requests.took(self.method, host, self.begun.elapsed());
    }
}

/// The methods that Kubernetes' API uses. All others share one label, to bound the number of labels.
fn label(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        _ => "other",
    }
}

/// The body of a response; the request ends when it ends.
pub struct Timed<B> {
    body: B,
    _under_way: Option<UnderWay>,
}

impl<B: http_body::Body + Unpin> http_body::Body for Timed<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use futures_util::StreamExt;
    use k8s_openapi::api::core::v1::Pod;
    use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchParams};
    use kube::{Api, Client};
    use tokio::time::{sleep, timeout};

    use super::*;
    use crate::client::Clients;

    #[derive(Default)]
    struct Seen(Mutex<Vec<String>>);

    impl Seen {
        fn add(&self, line: String) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }

        fn take(&self) -> Vec<String> {
            std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
        }
    }

    impl Requests for Seen {
        fn answered(&self, method: &'static str, host: &str, status: Option<u16>) {
            let code = status.map_or("<error>".to_owned(), |status| status.to_string());
            self.add(format!("{method} {host} {code}"));
        }

        fn took(&self, method: &'static str, _: &str, time: Duration) {
            self.add(format!("{method} {} ms", time.as_millis()));
        }
    }

    /// Answers after a second: creates with 201, deletions of `gone` with 404, of `stuck` never, of `broken`
    /// with a broken connection; watches without an end; everything else with 200, and a body that takes half a
    /// second more.
    async fn serve(request: Request<Body>) -> Result<Response<Late>, std::io::Error> {
        let (path, query) = (request.uri().path().to_owned(), request.uri().query().unwrap_or("").to_owned());
        if path.ends_with("/stuck") {
            std::future::pending::<()>().await;
        }
        sleep(Duration::from_secs(1)).await;
        if path.ends_with("/broken") {
            return Err(std::io::ErrorKind::ConnectionReset.into());
        }
        let status = match (request.method().as_str(), path.ends_with("/gone")) {
            ("POST", _) => 201,
            (_, true) => 404,
            (_, false) => 200,
        };
        let text = match status {
            404 => r#"{"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}"#,
            _ if path.ends_with("/pods") && request.method() == Method::GET => {
                r#"{"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": []}"#
            }
            _ => r#"{"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "p"}}"#,
        };
        let late = Duration::from_millis(if query.contains("watch=true") { 1_000_000_000 } else { 500 });
        let body = Late { text: Some(text), sleep: Box::pin(sleep(late)) };
        Ok(Response::builder().status(status).body(body).expect("a response"))
    }

    /// A delayed body.
    struct Late {
        text: Option<&'static str>,
        sleep: Pin<Box<tokio::time::Sleep>>,
    }

    impl http_body::Body for Late {
        type Data = <Body as http_body::Body>::Data;
        type Error = std::io::Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
            std::task::ready!(self.sleep.as_mut().poll(context));
            Poll::Ready(self.text.take().map(|text| Ok(Frame::data(text.into()))))
        }
    }

    fn pods(seen: &Arc<Seen>) -> Api<Pod> {
        let client = Client::new(tower::service_fn(serve), "n");
        Api::namespaced(Clients::over(client, "api:443", Arc::clone(seen) as Arc<dyn Requests>).call, "n")
    }

    #[tokio::test(start_paused = true)]
    async fn each_request_is_counted_by_its_method_and_its_status() {
        let seen = Arc::new(Seen::default());
        let pods = pods(&seen);
        let pod: Pod = serde_json::from_str(r#"{"metadata": {"name": "p"}}"#).expect("a pod");
        pods.create(&PostParams::default(), &pod).await.expect("it is created");
        assert_eq!(seen.take(), ["POST api:443 201", "POST 1500 ms"]);
        pods.list(&ListParams::default()).await.expect("a list");
        assert_eq!(seen.take(), ["GET api:443 200", "GET 1500 ms"]);
        pods.replace("p", &PostParams::default(), &pod).await.expect("it is replaced");
        pods.patch("p", &PatchParams::default(), &Patch::Merge(&pod)).await.expect("it is changed");
        assert!(pods.delete("gone", &DeleteParams::default()).await.is_err());
        let lines = seen.take();
        let codes: Vec<&String> = lines.iter().filter(|line| !line.ends_with("ms")).collect();
        assert_eq!(codes, ["PUT api:443 200", "PATCH api:443 200", "DELETE api:443 404"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_gets_no_answer_is_an_error() {
        let seen = Arc::new(Seen::default());
        let pods = pods(&seen);
        assert!(pods.get("broken").await.is_err());
        assert_eq!(seen.take(), ["GET api:443 <error>", "GET 1000 ms"]);
        let patience = Duration::from_secs(15);
        assert!(timeout(patience, pods.delete("stuck", &DeleteParams::default())).await.is_err());
        tokio::task::yield_now().await;
        assert_eq!(seen.take(), ["DELETE api:443 <error>", "DELETE 15000 ms"]);
        // The response has begun; its body is abandoned.
        assert!(timeout(Duration::from_millis(1_200), pods.get("p")).await.is_err());
        tokio::task::yield_now().await;
        assert_eq!(seen.take(), ["GET api:443 200", "GET 1200 ms"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_is_counted_as_it_begins() {
        let seen = Arc::new(Seen::default());
        let pods = pods(&seen);
        let mut watch = pods.watch(&WatchParams::default(), "0").await.expect("a watch").boxed();
        assert_eq!(seen.take(), ["GET api:443 200", "GET 1000 ms"]);
        assert!(timeout(Duration::from_secs(600), watch.next()).await.is_err());
        drop(watch);
        assert_eq!(seen.take(), [] as [&str; 0], "it ends later, and is not counted again");
    }
}
