//! Logs and traces: the only place that knows how lines are written and where spans go.
//!
//! Invariants: what leaves by traces is the spans listed here, never log lines; a collector that is away or hangs costs nothing but
//! its own spans.

use std::fmt;
use std::io::IsTerminal as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider, SpanData,
};
use tonic::transport::{ClientTlsConfig, Endpoint};
use tracing::field::{Field, Visit};
use tracing::{Metadata, Subscriber};
use tracing_subscriber::field::{RecordFields, VisitOutput as _};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::format::{DefaultVisitor, Writer};
use tracing_subscriber::fmt::{FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry};
use url::Url;

/// Spans that are sent to a collector: those whose fields hold no secret, no name and no address.
const EXPORTED: [&str; 5] = [
    "request",
    "rpc",
    "sweep",
    "token_renewal",
    "microsoft.request",
];

/// Spans that wait for the collector; more are dropped.
const MOST_WAITING: usize = 4096;

/// How often spans are sent.
const SEND_EVERY: Duration = Duration::from_secs(2);

/// A collector that does not take spans within this time loses them.
const TAKES: Duration = Duration::from_secs(5);

/// At the end, what waits is sent within this time, or lost.
const FLUSH: Duration = Duration::from_secs(3);

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Where spans go.
#[derive(Debug, Clone, PartialEq)]
pub struct TraceSettings {
    /// A collector that speaks OTLP over gRPC.
    pub endpoint: Url,
    /// Part of all traces that is sent, 0 to 1.
    pub sample_ratio: f64,
    /// Under which name.
    pub service_name: String,
}

/// Why traces cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum TraceSetupError {
    /// The address or TLS.
    #[error("the address of the trace collector cannot be used")]
    Endpoint(#[from] tonic::transport::Error),
    /// The exporter.
    #[error("traces cannot be sent")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
}

/// The sending of spans, if there is any.
#[derive(Debug, Default)]
#[must_use = "what still waits is sent by stop()"]
pub struct Traces(Option<SdkTracerProvider>);

impl Traces {
    /// Sends what still waits, as far as the collector takes it within a few seconds.
    pub async fn stop(self) {
        let Some(provider) = self.0 else {
            return;
        };
        // It blocks, and needs this runtime meanwhile.
        let stopped = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(FLUSH));
        let stopped = tokio::time::timeout(FLUSH * 2, stopped).await;
        if !matches!(stopped, Ok(Ok(Ok(())))) {
            tracing::warn!("the trace collector did not take the last spans");
        }
    }
}

/// Writes log lines to standard error. `filter` is overridden by the variable `RUST_LOG`. A second call changes nothing.
pub fn init(format: LogFormat, filter: &str) {
    let ansi = std::io::stderr().is_terminal();
    let logs = logs(format, filter, ansi, std::io::stderr);
    // The only failure is that a subscriber is already set, as when several parts run in one process.
    let _ = tracing_subscriber::registry().with(logs).try_init();
}

/// As [`init`], and sends spans to a collector. Inside of a runtime only.
pub fn init_with_traces(
    format: LogFormat,
    filter: &str,
    settings: Option<&TraceSettings>,
) -> Result<Traces, TraceSetupError> {
    let ansi = std::io::stderr().is_terminal();
    let (subscriber, traces) = subscriber(format, filter, ansi, std::io::stderr, settings)?;
    let _ = subscriber.try_init();
    Ok(traces)
}

/// What takes log lines and spans, with lines going to `writer`. Inside of a runtime only, if there are `settings`.
pub fn subscriber<W>(
    format: LogFormat,
    filter: &str,
    ansi: bool,
    writer: W,
    settings: Option<&TraceSettings>,
) -> Result<(impl Subscriber + Send + Sync, Traces), TraceSetupError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let provider = settings.map(provider).transpose()?;
    let spans = provider.as_ref().map(|provider| {
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("presence-cloud"))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_filter(filter_fn(is_exported))
    });
    let subscriber = tracing_subscriber::registry()
        .with(logs::<_, Registry>(format, filter, ansi, writer))
        .with(spans);
    Ok((subscriber, Traces(provider)))
}

fn logs<W, S>(
    format: LogFormat,
    filter: &str,
    ansi: bool,
    writer: W,
) -> Box<dyn Layer<S> + Send + Sync>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(filter));
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(writer)
        .with_ansi(ansi);
    match format {
        LogFormat::Text => layer.fmt_fields(TextFields).with_filter(filter).boxed(),
        LogFormat::Json => layer.json().with_filter(filter).boxed(),
    }
}

/// As the usual text, without what is meant for the collector only.
struct TextFields;

impl<'w> FormatFields<'w> for TextFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut visitor = WithoutOtel(DefaultVisitor::new(writer, true));
        fields.record(&mut visitor);
        visitor.0.finish()
    }
}

struct WithoutOtel<'a>(DefaultVisitor<'a>);

impl WithoutOtel<'_> {
    fn shows(field: &Field) -> bool {
        !field.name().starts_with("otel.")
    }
}

impl Visit for WithoutOtel<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if Self::shows(field) {
            self.0.record_str(field, value);
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        if Self::shows(field) {
            self.0.record_error(field, value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if Self::shows(field) {
            self.0.record_debug(field, value);
        }
    }
}

/// Tells once when the collector does not take spans, and when it does again.
#[derive(Debug)]
struct Told {
    exporter: SpanExporter,
    failing: AtomicBool,
}

impl opentelemetry_sdk::trace::SpanExporter for Told {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let outcome = self.exporter.export(batch).await;
        let failed_before = self.failing.swap(outcome.is_err(), Ordering::Relaxed);
        match &outcome {
            Err(error) if !failed_before => {
                tracing::warn!(%error, "the trace collector does not take spans; they are lost");
            }
            Ok(()) if failed_before => tracing::info!("the trace collector takes spans again"),
            _ => {}
        }
        outcome
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

fn is_exported(metadata: &Metadata<'_>) -> bool {
    metadata.is_span()
        && metadata.target().starts_with("presence_bridge")
        && EXPORTED.contains(&metadata.name())
}

fn provider(settings: &TraceSettings) -> Result<SdkTracerProvider, TraceSetupError> {
    let mut endpoint = Endpoint::from_shared(settings.endpoint.to_string())?
        .connect_timeout(TAKES)
        .timeout(TAKES);
    if settings.endpoint.scheme() == "https" {
        endpoint = endpoint.tls_config(ClientTlsConfig::new().with_native_roots())?;
    }
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_channel(endpoint.connect_lazy())
        .with_timeout(TAKES)
        .build()?;
    let batches = BatchConfigBuilder::default()
        .with_max_queue_size(MOST_WAITING)
        .with_scheduled_delay(SEND_EVERY)
        .build();
    let exporter = Told {
        exporter,
        failing: AtomicBool::new(false),
    };
    let processor = BatchSpanProcessor::builder(exporter).with_batch_config(batches);
    let sampler = Sampler::TraceIdRatioBased(settings.sample_ratio);
    let resource = Resource::builder_empty()
        .with_service_name(settings.service_name.clone())
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    Ok(SdkTracerProvider::builder()
        .with_span_processor(processor.build())
        .with_sampler(Sampler::ParentBased(Box::new(sampler)))
        .with_resource(resource.build())
        .build())
}

/// What is wrong with a filter of log lines, such as `info,presence_bridge=debug`; `None` for nothing.
pub fn filter_problem(filter: &str) -> Option<String> {
    let parsed = EnvFilter::builder().parse(filter);
    parsed.err().map(|e| e.to_string())
}

/// Waits for Ctrl-C or, on Unix, SIGTERM.
pub async fn interrupted() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    let _ = tokio::signal::ctrl_c().await;
}
