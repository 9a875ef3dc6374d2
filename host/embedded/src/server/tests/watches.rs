//! Watches, and faults of their connections.

use super::*;

struct Watch(Body);

impl Watch {
    fn start(server: &Server, uri: &str) -> Watch {
        let response = send(server, "GET", uri, "", Value::Null);
        assert_eq!(response.status(), 200);
        Watch(response.into_body())
    }

    /// The events that are available now: types and names, or the code of an error.
    fn say(&mut self) -> Vec<(String, String)> {
        self.events()
            .into_iter()
            .map(|(event, object)| {
                let name = object["metadata"]["name"]
                    .as_str()
                    .map_or_else(|| object["code"].to_string(), str::to_owned);
                (event, name)
            })
            .collect()
    }

    fn events(&mut self) -> Vec<(String, Value)> {
        let mut events = Vec::new();
        while let Poll::Ready(Some(bytes)) = read(&mut self.0) {
            for line in String::from_utf8(bytes.unwrap().to_vec()).unwrap().lines() {
                let mut event: Value = serde_json::from_str(line).unwrap();
                events.push((event["type"].as_str().unwrap().to_owned(), event["object"].take()));
            }
        }
        events
    }

    fn ended(&mut self) -> bool {
        matches!(read(&mut self.0), Poll::Ready(None))
    }
}

fn said(events: &[(&str, &str)]) -> Vec<(String, String)> {
    events.iter().map(|(event, name)| ((*event).to_owned(), (*name).to_owned())).collect()
}

#[test]
fn a_watch_says_what_its_selector_shows() {
    let server = with_pods(&["a", "b"]);
    let start = format!("{PODS}?watch=true&labelSelector=app%3Da");
    let mut watch = Watch::start(&server, &start);
    assert_eq!(watch.say(), said(&[("ADDED", "a"), ("ADDED", "b")]), "from nothing: all there is");
    let since = ok(&server, "GET", PODS, Value::Null)["metadata"]["resourceVersion"].clone();
    let mut later = Watch::start(&server, &format!("{start}&resourceVersion={}", since.as_str().unwrap()));
    assert_eq!(later.say(), []);
    let label = |name: &str, value: Value| {
        ok(&server, "PATCH", &format!("{PODS}/{name}"), json!({ "metadata": { "labels": { "app": value } } }))
    };
    label("a", json!("x"));
    label("a", json!("y"));
    label("a", json!("a"));
    run(&server, "b");
    ok(&server, "DELETE", &format!("{PODS}/b?gracePeriodSeconds=0"), Value::Null);
    ok(&server, "POST", PODS, pod("other", json!({})));
    // Bound, running, terminating, removed.
    let b = ["MODIFIED", "MODIFIED", "MODIFIED", "DELETED"].map(|event| (event, "b"));
    let events = said(&[&[("DELETED", "a"), ("ADDED", "a")], &b[..]].concat());
    assert_eq!(watch.say(), events);
    let raw = later.events();
    assert_eq!(raw.len(), events.len());
    let versions: Vec<u64> = raw
        .iter()
        .map(|(_, it)| it["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap())
        .collect();
    assert!(versions.is_sorted_by(|a, b| a < b), "a deletion has a revision of its own: {versions:?}");
    assert!(!watch.ended() && !later.ended());
}

#[test]
fn a_watch_has_bookmarks_and_an_end_and_forgets() {
    let server = with_pods(&["a"]);
    let uri = format!("{PODS}?watch=true&allowWatchBookmarks=true&resourceVersion=1&timeoutSeconds=90");
    let mut watch = Watch::start(&server, &uri);
    assert_eq!(watch.say().len(), 1);
    server.create("configmaps", "default", json!({ "metadata": { "name": "elsewhere" } })).unwrap();
    server.advance(59_999);
    assert_eq!(watch.say(), []);
    server.advance(60_000);
    let events = watch.events();
    let version = server.revision().to_string();
    assert_eq!((&*events[0].0, &events[0].1["metadata"]["resourceVersion"]), ("BOOKMARK", &json!(version)));
    assert_eq!(events.len(), 1);
    server.advance(90_000);
    assert_eq!(watch.events().len(), 1, "the last word is a bookmark");
    assert!(watch.ended());

    let streaming = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut streamed = Watch::start(&server, &format!("{PODS}?watch=true&{streaming}"));
    let events = streamed.events();
    assert_eq!((&*events[0].0, &*events[1].0), ("ADDED", "BOOKMARK"));
    assert_eq!(events[1].1["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");

    let mut behind = Watch::start(&server, &format!("{PODS}?watch=true&resourceVersion=1"));
    server.compact();
    assert_eq!(behind.say(), said(&[("ERROR", "410")]));
    assert!(behind.ended());
}

#[test]
fn a_sleeping_watch_is_woken_by_change_and_time() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[derive(Default)]
    struct Woken(AtomicU32);
    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let server = with_pods(&[]);
    let mut watch = Watch::start(&server, &format!("{PODS}?watch=true&timeoutSeconds=30"));
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut poll = || Pin::new(&mut watch.0).poll_frame(&mut Context::from_waker(&waker)).is_ready();
    let count = || woken.0.load(Ordering::Relaxed);
    assert!(!poll());
    server.advance(1_000);
    assert_eq!(count(), 0);
    ok(&server, "POST", PODS, pod("a", json!({})));
    assert_eq!(count(), 1);
    assert!(poll() && !poll());
    server.advance(30_000);
    assert_eq!(count(), 2);
    assert!(poll(), "its time is over");
}

#[test]
fn an_interceptor_breaks_things() {
    let server = with_pods(&["a"]);
    let mut verdicts = vec![
        Verdict::Hang,
        Verdict::ApplyThenLose,
        Verdict::LoseBefore,
        Verdict::Respond { status: 503, retry_after: Some(7), message: "not now".into() },
    ];
    server.set_interceptor(Some(Box::new(move |_| verdicts.pop().unwrap_or(Verdict::Pass))));
    let create = |name: &str| {
        let body: Bytes = pod(name, json!({})).to_string().into();
        let request = Request::builder().method("POST").uri(PODS).body(Whole(Some(body))).unwrap();
        let future = Service::call(&mut server.clone(), request);
        std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop()))
    };
    let Poll::Ready(Ok(refused)) = create("b") else { panic!() };
    assert_eq!((refused.status().as_u16(), &refused.headers()["retry-after"]), (503, &"7".parse().unwrap()));
    assert_eq!(whole(refused)["message"], "not now");
    assert!(matches!(create("b"), Poll::Ready(Err(_))));
    assert!(matches!(create("c"), Poll::Ready(Err(_))));
    assert!(create("d").is_pending());
    assert!(matches!(create("e"), Poll::Ready(Ok(_))));
    assert_eq!(names(&ok(&server, "GET", PODS, Value::Null)), ["a", "c", "e"]);
    server.set_interceptor(Some(Box::new(|_| Verdict::CutWatchAfter(100))));
    let mut watch = Watch::start(&server, &format!("{PODS}?watch=true"));
    let Poll::Ready(Some(Ok(cut))) = read(&mut watch.0) else { panic!() };
    assert!(cut.len() == 100 && !cut.ends_with(b"\n") && watch.ended());
    assert_eq!(server.requests()[&("watch".to_owned(), "pods".to_owned())], 1);
}

/// A request's body in one piece.
struct Whole(Option<Bytes>);

impl http_body::Body for Whole {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        Poll::Ready(self.0.take().map(|bytes| Ok(http_body::Frame::data(bytes))))
    }
}
