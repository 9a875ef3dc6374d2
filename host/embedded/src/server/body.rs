//! Response bodies: bytes that are complete, or a watch that continues.
//!
//! A watch is a position in the log. When it is polled, it sends the events since then, and sleeps until the
//! next change or its next deadline: a bookmark, or the end. Nothing is queued for it, so a slow reader costs
//! nothing, and gets a 410 once the log no longer reaches back to its position.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use serde_json::{Value, json};

use super::Server;
use super::ask::Ask;
use super::selector::Selector;
use super::status::Status;
use super::store::{Entry, Store};
use super::view::View;

/// A response's body. Its error is that of a broken connection.
#[derive(Debug)]
pub struct Body(pub(super) Kind);

#[derive(Debug)]
pub(super) enum Kind {
    Whole(Option<Bytes>),
    Watch(Box<Watch>),
    /// The connection breaks.
    Lost,
    /// No data ever arrives.
    Hung,
}

#[derive(Debug)]
pub(super) struct Watch {
    server: Server,
    id: u64,
    view: View,
    selector: Selector,
    namespace: Option<String>,
    /// Objects that existed at the start and are still to be sent.
    initial: VecDeque<Arc<Value>>,
    /// A bookmark marks the end of the initial objects.
    announce: bool,
    /// All changes up to this revision have been sent.
    seen: u64,
    bookmarks: bool,
    bookmark_ms: u64,
    end_ms: u64,
    /// Bytes until the connection is cut.
    pub cut: Option<usize>,
    ended: bool,
}

/// About the real server's interval.
const BOOKMARK_MS: u64 = 60_000;
/// Events in one frame: 64 pods of 10 KB are a write of 640 KB.
const FRAME_EVENTS: usize = 64;

impl Body {
    pub(super) fn json(value: &Value) -> Body {
        Body(Kind::Whole(Some(value.to_string().into())))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut self.0 {
            Kind::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Kind::Watch(watch) => watch.poll(context).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes)))),
            Kind::Lost => Poll::Ready(Some(Err(lost()))),
            Kind::Hung => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Whole(bytes) => bytes.is_none(),
            Kind::Watch(watch) => watch.ended,
            Kind::Lost | Kind::Hung => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Kind::Watch(_) | Kind::Lost | Kind::Hung => SizeHint::default(),
        }
    }
}

/// What a client sees of a connection that breaks.
pub(super) fn lost() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "connection reset by peer")
}

impl Watch {
    pub fn new(server: &Server, store: &mut Store, ask: &Ask) -> Result<Watch, Status> {
        ask.check_options()?;
        let selector = ask.selector()?;
        let bookmarks = ask.is_true("allowWatchBookmarks");
        let since = ask.number("resourceVersion")?.filter(|revision| *revision > 0);
        let streaming = ask.parameter("sendInitialEvents");
        let initial: VecDeque<_> = match (since, streaming) {
            (_, "false") | (Some(_), "") => VecDeque::new(),
            _ => {
                let objects = store.range(ask.kind.plural, ask.scope()).map(|(_, object)| object);
                objects.filter(|object| selector.matches(object)).cloned().collect()
            }
        };
        let seen = match (since, streaming) {
            (Some(revision), "" | "false") => revision,
            _ => store.revision(),
        };
        let timeout_s = match ask.number("timeoutSeconds")?.filter(|seconds| *seconds > 0) {
            Some(seconds) => seconds,
            // The real server also uses a random time, so that not all watches end at once.
            None => 1800 + store.below(1800),
        };
        let too_many = || Status::new(429, "TooManyRequests", "too many watches, please try again later");
        let id = store.watch().ok_or_else(|| too_many().retry_after(1))?;
        Ok(Watch {
            server: server.clone(),
            id,
            view: ask.view,
            selector,
            namespace: ask.scope().map(str::to_owned),
            initial,
            announce: streaming == "true" && bookmarks,
            seen,
            bookmarks,
            bookmark_ms: store.now_ms + BOOKMARK_MS,
            end_ms: store.now_ms.saturating_add(timeout_s.saturating_mul(1000)),
            cut: None,
            ended: false,
        })
    }

    fn poll(&mut self, context: &Context<'_>) -> Poll<Option<Bytes>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let server = self.server.clone();
        server.with(|store| {
            let mut lines = String::new();
            self.write(store, &mut lines);
            if let Some(left) = &mut self.cut {
                if lines.len() >= *left {
                    self.ended = true;
                    let bytes = Bytes::copy_from_slice(&lines.as_bytes()[..*left]);
                    return Poll::Ready((!bytes.is_empty()).then_some(bytes));
                }
                *left -= lines.len();
            }
            if !lines.is_empty() {
                return Poll::Ready(Some(lines.into()));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            let due_ms = if self.bookmarks { self.bookmark_ms.min(self.end_ms) } else { self.end_ms };
            store.sleep(self.id, context.waker(), due_ms);
            Poll::Pending
        })
    }

    fn write(&mut self, store: &Store, lines: &mut String) {
        let wall_ms = store.wall_ms();
        for _ in 0..FRAME_EVENTS {
            let Some(object) = self.initial.pop_front() else { break };
            line(lines, "ADDED", self.view.object(&object, wall_ms));
        }
        if !self.initial.is_empty() {
            return;
        }
        if std::mem::take(&mut self.announce) {
            line(lines, "BOOKMARK", self.view.bookmark(self.seen, true));
        }
        let Some(entries) = store.since(self.seen) else {
            line(lines, "ERROR", Status::expired(self.seen, store.compacted()).to_json());
            self.ended = true;
            return;
        };
        let mut written = 0;
        for entry in entries {
            if written == FRAME_EVENTS {
                return;
            }
            self.seen = entry.change.revision;
            if let Some((event, object)) = self.event(entry) {
                line(lines, event, self.view.object(&object, wall_ms));
                written += 1;
            }
        }
        // Nothing is left to send; ahead of the log there is no revision to confirm.
        let over = store.now_ms >= self.end_ms;
        if self.bookmarks && (over || store.now_ms >= self.bookmark_ms) && self.seen <= store.revision() {
            self.seen = store.revision();
            self.bookmark_ms = store.now_ms + BOOKMARK_MS;
            line(lines, "BOOKMARK", self.view.bookmark(self.seen, false));
        }
        self.ended = over;
    }

    /// An object that no longer matches is reported as deleted, and one that matches now as added, also if the
    /// change was an update.
    fn event(&self, entry: &Entry) -> Option<(&'static str, Arc<Value>)> {
        let here = entry.key.resource == self.view.kind.plural
            && self.namespace.as_ref().is_none_or(|namespace| entry.key.namespace == *namespace);
        let seen = |object: &&Arc<Value>| here && self.selector.matches(object);
        let before = entry.change.before.as_ref().filter(seen);
        match (before, entry.change.after.as_ref().filter(seen)) {
            (None, None) => None,
            (None, Some(after)) => Some(("ADDED", Arc::clone(after))),
            (Some(_), Some(after)) => Some(("MODIFIED", Arc::clone(after))),
            (Some(before), None) => {
                let mut last = Value::clone(before);
                last["metadata"]["resourceVersion"] = entry.change.revision.to_string().into();
                Some(("DELETED", Arc::new(last)))
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.server.with(|store| store.unwatch(self.id));
    }
}

fn line(lines: &mut String, event: &str, object: Value) {
    lines.push_str(&json!({ "type": event, "object": object }).to_string());
    lines.push('\n');
}
