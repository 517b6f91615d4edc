//! A collector of traces: OTLP over gRPC, as any real one speaks it.

use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::trace::v1::Span;
use presence_bridge::telemetry::TraceSettings;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;
use tonic::service::Routes;
use tonic::{Request, Response, Status};
use url::Url;

#[derive(Clone, Default)]
pub struct Taken(Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

#[tonic::async_trait]
impl TraceService for Taken {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.lock().unwrap().push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Taken {
    pub fn spans(&self) -> Vec<Span> {
        let taken = self.0.lock().unwrap();
        let resources = taken.iter().flat_map(|request| &request.resource_spans);
        let scopes = resources.flat_map(|resource| &resource.scope_spans);
        scopes.flat_map(|scope| scope.spans.clone()).collect()
    }

    /// Everything that came, as text.
    pub fn text(&self) -> String {
        format!("{:#?}", self.0.lock().unwrap())
    }
}

pub struct Collector {
    pub taken: Taken,
    pub settings: TraceSettings,
    _serving: AbortOnDropHandle<()>,
}

pub fn settings(port: u16) -> TraceSettings {
    TraceSettings {
        endpoint: Url::parse(&format!("http://127.0.0.1:{port}")).unwrap(),
        sample_ratio: 1.0,
        service_name: "under-test".into(),
    }
}

impl Collector {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let taken = Taken::default();
        let routes = Routes::new(TraceServiceServer::new(taken.clone())).into_axum_router();
        #[allow(clippy::disallowed_methods, reason = "aborted when it is dropped")]
        let serving = tokio::spawn(async move {
            axum::serve(listener, routes).await.unwrap();
        });
        Self {
            taken,
            settings: settings(port),
            _serving: AbortOnDropHandle::new(serving),
        }
    }
}
