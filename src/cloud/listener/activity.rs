//! What happens on a connection: whether somebody has shown who he is, whether it is at rest, whether he is still welcome.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::addresses::Peer;
use super::in_front;
use crate::config::listeners::InFront;

/// A connection on which nobody has shown by then who he is is closed: strangers must not take the place of suites.
pub(super) const FIRST_REQUEST: Duration = Duration::from_secs(10);

/// A connection on which nothing is asked and nothing is answered for this long is closed.
pub(super) const IDLE: Duration = Duration::from_mins(5);

/// A connection on which so many requests were refused is closed: the next refusals cost a connection first.
const MOST_REFUSALS: u32 = 20;

/// What happens on a connection.
pub(super) struct Activity {
    /// Somebody has shown who he is.
    admitted: AtomicBool,
    /// Requests that were refused, of everybody on this connection.
    refused: AtomicU32,
    /// There were too many of them, or an answer is not read.
    unwelcome: Notify,
    /// Since when there is a connection.
    accepted: Instant,
    /// The first time somebody has shown who he is.
    introduced: Notify,
    /// Requests whose answer has not ended.
    open: AtomicUsize,
    /// When the last of them ended.
    rested_since: Mutex<Instant>,
}

/// What becomes of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) enum Turn {
    /// Nobody has shown in time who he is.
    StaysStranger,
    /// Too much was refused, or an answer is not read.
    Unwelcome,
    /// Somebody has shown who he is.
    Introduced,
    /// Nothing has happened for a while, or we stop.
    Closes,
}

/// What has become of a connection already.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Before {
    pub introduced: bool,
    pub closes: bool,
}

/// In the extensions of every request: to tell what became of the caller.
#[derive(Clone)]
pub struct Caller {
    activity: Arc<Activity>,
    /// Others use the same connection: it is a proxy's.
    shared: bool,
}

impl Caller {
    /// Closes the connection, unless others use it, too: what was said over it is not read.
    pub fn cut(&self) {
        if !self.shared {
            self.activity.unwelcome.notify_one();
        }
    }
}

/// The caller has shown who he is: the connection may stay open.
pub fn admit(extensions: &http::Extensions) {
    if let Some(Caller { activity, .. }) = extensions.get() {
        activity.admit();
    }
}

/// The caller was turned away. Who goes on regardless loses his connection.
pub fn turned_away(extensions: &http::Extensions) {
    if let Some(caller) = extensions.get::<Caller>()
        && !caller.shared
        && caller.activity.refused.fetch_add(1, Ordering::Relaxed) + 1 == MOST_REFUSALS
    {
        caller.activity.unwelcome.notify_one();
    }
}

impl Activity {
    /// On a connection that was accepted then.
    pub(super) fn new(accepted: Instant) -> Self {
        Self {
            accepted,
            introduced: Notify::new(),
            admitted: AtomicBool::new(false),
            refused: AtomicU32::new(0),
            unwelcome: Notify::new(),
            open: AtomicUsize::new(0),
            rested_since: Mutex::new(Instant::now()),
        }
    }

    pub(super) fn is_admitted(&self) -> bool {
        self.admitted.load(Ordering::Relaxed)
    }

    pub(super) fn admit(&self) {
        if !self.admitted.swap(true, Ordering::Relaxed) {
            self.introduced.notify_one();
        }
    }

    /// What becomes of the connection next, besides what is said on it; of what has become of it already, nothing.
    pub(super) fn next_turn(
        self: &Arc<Self>,
        stop: CancellationToken,
        before: Before,
    ) -> impl Future<Output = Turn> + Send + use<> {
        let activity = Arc::clone(self);
        async move {
            tokio::select! {
                () = activity.stays_a_stranger() => Turn::StaysStranger,
                () = activity.unwelcome.notified() => Turn::Unwelcome,
                () = activity.introduced.notified(), if !before.introduced => Turn::Introduced,
                _ = stop.run_until_cancelled(activity.comes_to_rest()), if !before.closes => Turn::Closes,
            }
        }
    }

    /// Ends when nobody has shown in time who he is.
    async fn stays_a_stranger(&self) {
        tokio::time::sleep_until(self.accepted + FIRST_REQUEST).await;
        if self.is_admitted() {
            std::future::pending::<()>().await;
        }
    }

    /// Ends when nothing has happened for a while.
    async fn comes_to_rest(&self) {
        loop {
            let since = *self.rested_since();
            if self.open.load(Ordering::Relaxed) > 0 {
                tokio::time::sleep(IDLE).await;
            } else if since.elapsed() >= IDLE {
                return;
            } else {
                tokio::time::sleep_until(since + IDLE).await;
            }
        }
    }

    fn rested_since(&self) -> std::sync::MutexGuard<'_, Instant> {
        self.rested_since
            .lock()
            .expect("nothing panics while holding a time")
    }
}

/// A request whose answer has not ended.
struct Open(Arc<Activity>);

impl Drop for Open {
    fn drop(&mut self) {
        *self.0.rested_since() = Instant::now();
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The body of an answer; the request counts as open until it has ended.
pub(super) struct Counted {
    body: Body,
    _open: Open,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}

/// Has the service answer, and tells it who asks.
pub(super) async fn answer<S>(
    service: S,
    request: http::Request<hyper::body::Incoming>,
    peer: Peer,
    in_front: &InFront,
    activity: Arc<Activity>,
) -> Result<http::Response<Counted>, Infallible>
where
    S: tower::Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
{
    activity.open.fetch_add(1, Ordering::Relaxed);
    let open = Open(Arc::clone(&activity));
    let mut request = request.map(Body::new);
    let shared = in_front::is_shared(in_front, peer);
    let caller = in_front::caller(in_front, peer, request.headers());
    request.extensions_mut().insert(caller);
    request.extensions_mut().insert(Caller { activity, shared });
    let response = service.oneshot(request).await?;
    Ok(response.map(|body| Counted { body, _open: open }))
}
