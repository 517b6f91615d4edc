//! A suite at the level of the contract: sends and reads single messages.

use presence_bridge::agent::identity::Identity;
use presence_bridge::clock::Clock;
use presence_bridge::wire::v1::presence_service_client::PresenceServiceClient;
use presence_bridge::wire::v1::watch_request::Request as Up;
use presence_bridge::wire::v1::watch_response::Response as Down;
use presence_bridge::wire::v1::{self, Open, WatchRequest};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};

pub struct RawStream {
    pub up: mpsc::Sender<WatchRequest>,
    pub down: Streaming<v1::WatchResponse>,
}

pub fn client(identity: &Identity) -> PresenceServiceClient<Channel> {
    PresenceServiceClient::new(identity.cloud.channel().unwrap())
}

/// A call with the suite's credential.
pub fn signed<T>(identity: &Identity, message: T) -> Request<T> {
    let mut request = Request::new(message);
    sign(identity, &mut request, &Clock::system());
    request
}

fn sign<T>(identity: &Identity, request: &mut Request<T>, clock: &Clock) {
    let bearer = identity.bearer(clock.now());
    request.metadata_mut().insert("authorization", bearer);
}

pub fn open(watch: Vec<String>) -> Up {
    Up::Open(Open {
        protocol_version: 1,
        agent_version: "raw".into(),
        watch,
        ..Open::default()
    })
}

impl RawStream {
    /// Sends a first message.
    pub async fn start(identity: &Identity, first: Up) -> Result<Self, Status> {
        Self::start_at(identity, first, &Clock::system()).await
    }

    /// As [`RawStream::start`], where time is moved.
    pub async fn start_at(identity: &Identity, first: Up, clock: &Clock) -> Result<Self, Status> {
        Self::start_over(identity.cloud.channel().unwrap(), identity, first, clock).await
    }

    /// As [`RawStream::start`], over a connection that takes hardly anything as long as nothing is read.
    pub async fn start_narrow(identity: &Identity, first: Up) -> Result<Self, Status> {
        let channel = Channel::from_shared(identity.cloud.url.to_string())
            .unwrap()
            .initial_stream_window_size(1024)
            .connect_lazy();
        Self::start_over(channel, identity, first, &Clock::system()).await
    }

    async fn start_over(
        channel: Channel,
        identity: &Identity,
        first: Up,
        clock: &Clock,
    ) -> Result<Self, Status> {
        let (up, waiting) = mpsc::channel(100);
        up.send(WatchRequest {
            request: Some(first),
        })
        .await
        .unwrap();
        let mut request = Request::new(ReceiverStream::new(waiting));
        sign(identity, &mut request, clock);
        let down = PresenceServiceClient::new(channel)
            .watch(request)
            .await?
            .into_inner();
        Ok(Self { up, down })
    }

    pub async fn send(&self, request: Up) {
        self.up
            .send(WatchRequest {
                request: Some(request),
            })
            .await
            .unwrap();
    }

    /// The next message, or how the stream ended.
    pub async fn next(&mut self) -> Result<Down, Status> {
        let waited = tokio::time::timeout(std::time::Duration::from_secs(30), self.down.message());
        let message = waited.await.expect("something arrives")?;
        message
            .and_then(|m| m.response)
            .ok_or_else(|| Status::ok("ended"))
    }

    /// Reads until the stream ends: the last message, and the status.
    pub async fn read_out(&mut self) -> (Option<Down>, Status) {
        let mut last = None;
        loop {
            match self.next().await {
                Ok(message) => last = Some(message),
                Err(status) => return (last, status),
            }
        }
    }
}
