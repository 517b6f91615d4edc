//! From an answer of Microsoft that is there to the suites that are to know: what it costs, how long it takes.

use tokio::runtime::Runtime;

use crate::clients::Clients;
use crate::process::{Part, cpu_seconds, resident_bytes};
use crate::streams::{Drive, Driven, Ready, Setup};
use crate::table::Row;

/// Answers a second: what a tenant of some ten thousand people gets.
const ANSWERS_PER_SECOND: usize = 20;

/// What one run showed.
pub struct Run {
    /// Processor seconds of the server.
    cpu: f64,
    /// Changes that came, over all streams.
    pub delivered: usize,
    /// Microseconds from the answer to the suite, of every change, in order of size.
    pub latencies: Vec<u64>,
    /// Of every answer, the same of the last stream.
    last: Vec<u64>,
    /// Most messages one stream got for one answer.
    messages: usize,
}

/// A server with its streams.
pub struct Server {
    pub part: Part,
    pub ready: Ready,
    clients: Clients,
    setup: Setup,
}

impl Server {
    fn start(runtime: &Runtime, role: &str, setup: Setup) -> anyhow::Result<Self> {
        Self::start_some(runtime, role, setup, setup.streams)
    }

    /// Only so many of the streams are opened.
    pub fn start_some(
        runtime: &Runtime,
        role: &str,
        setup: Setup,
        streams: usize,
    ) -> anyhow::Result<Self> {
        let (part, ready): (Part, Ready) = Part::start(role, &setup)?;
        let clients = Clients::open(&ready, streams, role == "product");
        let clients = runtime.block_on(clients)?;
        Ok(Self {
            part,
            ready,
            clients,
            setup,
        })
    }

    /// Changes that have come so far, over all streams.
    fn came(&self) -> usize {
        let received = self.clients.received();
        received.iter().flatten().map(|(_, n)| n).sum()
    }

    /// Drives answers through it.
    pub fn run(
        &mut self,
        runtime: &Runtime,
        answers: usize,
        apart_us: u64,
        changes: usize,
    ) -> anyhow::Result<Run> {
        let each = if self.setup.people == self.setup.watched {
            changes
        } else {
            anyhow::ensure!(
                changes.is_multiple_of(self.setup.streams),
                "every stream gets as many"
            );
            changes / self.setup.streams
        };
        self.clients.forget();
        let before = cpu_seconds(self.part.pid())?;
        let driven: Driven = self.part.ask(&Drive::Answers {
            answers,
            apart_us,
            changes,
        })?;
        runtime.block_on(self.clients.settle(answers * each));
        let cpu = cpu_seconds(self.part.pid())? - before;
        let mut run = Run {
            cpu,
            delivered: 0,
            latencies: Vec::new(),
            last: vec![0; answers],
            messages: 0,
        };
        for received in self.clients.received() {
            let (mut change, mut of_answer, mut answer_before) = (0, 0, usize::MAX);
            for (at, presences) in received {
                for _ in 0..presences {
                    let answer = (change / each.max(1)).min(answers - 1);
                    let took = at.saturating_sub(driven.at_us[answer]);
                    run.latencies.push(took);
                    run.last[answer] = run.last[answer].max(took);
                    change += 1;
                    if answer != answer_before {
                        (answer_before, of_answer) = (answer, 0);
                    }
                }
                of_answer += 1;
                run.messages = run.messages.max(of_answer);
            }
            run.delivered += change;
        }
        run.latencies.sort_unstable();
        run.last.sort_unstable();
        Ok(run)
    }
}

#[expect(clippy::cast_precision_loss, reason = "few")]
/// What this part of them is below.
pub fn at(sorted: &[u64], part: f64) -> f64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "few"
    )]
    let index = ((sorted.len().max(1) - 1) as f64 * part) as usize;
    sorted.get(index).copied().unwrap_or_default() as f64
}

#[expect(clippy::cast_precision_loss, reason = "few")]
fn per(run: &Run) -> f64 {
    run.cpu * 1e6 / run.delivered.max(1) as f64
}

/// Cost and delay at presence rates.
pub fn at_presence_rates(
    runtime: &Runtime,
    seconds: usize,
    rows: &mut Vec<Row>,
) -> anyhow::Result<()> {
    for (name, per_second, setup) in [
        (
            "2,000/s to 10 streams",
            2_000,
            Setup {
                streams: 10,
                people: 2_000,
                watched: 2_000,
                tls: false,
            },
        ),
        (
            "200/s to 100 streams",
            200,
            Setup {
                streams: 100,
                people: 1_000,
                watched: 1_000,
                tls: false,
            },
        ),
        (
            "2,000/s, each to one of 100 streams",
            2_000,
            Setup {
                streams: 100,
                people: 10_000,
                watched: 100,
                tls: false,
            },
        ),
    ] {
        let changes = per_second / ANSWERS_PER_SECOND;
        let apart_us = 1_000_000 / u64::try_from(ANSWERS_PER_SECOND)?;
        let run = |role| {
            let mut server = Server::start(runtime, role, setup)?;
            // Once to warm up.
            server.run(runtime, ANSWERS_PER_SECOND, apart_us, changes)?;
            server.run(runtime, ANSWERS_PER_SECOND * seconds, apart_us, changes)
        };
        let (bare, ours) = (run("bare")?, run("product")?);
        anyhow::ensure!(
            bare.delivered == ours.delivered,
            "{name}: {} changes came, of {}",
            ours.delivered,
            bare.delivered
        );
        rows.push(Row::at_most(
            format!("CPU per delivered change, {name}"),
            "µs",
            per(&bare),
            per(&ours),
            1.3,
        ));
        rows.push(Row::at_most(
            format!("change → client, p50, {name}"),
            "µs",
            at(&bare.latencies, 0.5),
            at(&ours.latencies, 0.5),
            1.5,
        ));
        rows.push(Row::at_most(
            format!("change → client, p99, {name}"),
            "µs",
            at(&bare.latencies, 0.99),
            at(&ours.latencies, 0.99),
            2.0,
        ));
        rows.push(Row {
            what: format!("messages of a stream for one answer, {name}"),
            reference: bare.messages.to_string(),
            ours: ours.messages.to_string(),
            ratio: None,
            goal: "1".into(),
            met: ours.messages == 1,
        });
    }
    Ok(())
}

/// One change that a thousand streams are to know.
pub fn one_to_a_thousand(
    runtime: &Runtime,
    answers: usize,
    rows: &mut Vec<Row>,
) -> anyhow::Result<()> {
    let setup = Setup {
        streams: 1_000,
        people: 100,
        watched: 100,
        tls: false,
    };
    let run = |role| Server::start(runtime, role, setup)?.run(runtime, answers, 250_000, 1);
    let (bare, ours) = (run("bare")?, run("product")?);
    rows.push(Row::at_most(
        "one change to 1,000 streams: the last one, p50",
        "µs",
        at(&bare.last, 0.5),
        at(&ours.last, 0.5),
        1.5,
    ));
    rows.push(Row::at_most(
        "one change to 1,000 streams: the last one, p99",
        "µs",
        at(&bare.last, 0.99),
        at(&ours.last, 0.99),
        2.0,
    ));
    Ok(())
}

/// Answers a second that keep ten streams full: more than 1.6 million changes a second in all. With many more, newer changes replace older ones.
const FULL: u64 = 250;

/// As much as goes.
pub fn full(runtime: &Runtime, seconds: u64, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    let setup = Setup {
        streams: 10,
        people: 6_500,
        watched: 6_500,
        tls: false,
    };
    let mut bare = Server::start(runtime, "bare", setup)?;
    bare.clients.forget();
    let before = cpu_seconds(bare.part.pid())?;
    let _: Driven = bare.part.ask(&Drive::Flood { seconds })?;
    // What is still on its way has been paid for.
    let (mut came, mut more) = (0, bare.came());
    while more > came {
        std::thread::sleep(std::time::Duration::from_millis(200));
        (came, more) = (more, bare.came());
    }
    let cpu = cpu_seconds(bare.part.pid())? - before;
    drop(bare);
    let mut ours = Server::start(runtime, "product", setup)?;
    let answers = usize::try_from(seconds * FULL)?;
    ours.run(runtime, ANSWERS_PER_SECOND, 50_000, 650)?;
    let run = ours.run(runtime, answers, 1_000_000 / FULL, 650)?;
    let due = answers * 650 * setup.streams;
    anyhow::ensure!(
        run.delivered * 10 >= due * 9,
        "streams full: of {due} changes {} came: the machine is too slow for this pace",
        run.delivered
    );
    #[expect(clippy::cast_precision_loss, reason = "few")]
    let (bare, ours) = (came as f64 / cpu, run.delivered as f64 / run.cpu);
    rows.push(Row::at_least(
        "changes per CPU second, streams full (1.6 million/s to 10 streams)",
        "",
        bare,
        ours,
        0.7,
    ));
    Ok(())
}

/// What a stream costs on which nothing happens.
pub fn idle_streams(runtime: &Runtime, streams: usize, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    let setup = Setup {
        streams,
        people: 1_000,
        watched: 100,
        tls: true,
    };
    let run = |role| {
        let (part, ready): (Part, Ready) = Part::start(role, &setup)?;
        let before = resident_bytes(part.pid())?;
        let clients = runtime.block_on(Clients::open(&ready, streams, role == "product"))?;
        runtime.block_on(async { tokio::time::sleep(std::time::Duration::from_secs(2)).await });
        let after = resident_bytes(part.pid())?;
        drop(clients);
        #[expect(clippy::cast_precision_loss, reason = "few")]
        anyhow::Ok((after - before) / streams as f64 / 1024.0)
    };
    let (bare, ours) = (run("bare")?, run("product")?);
    rows.push(Row::at_most(
        "resident memory per idle stream over TLS, watch list of 100",
        "KiB",
        bare,
        ours,
        1.5,
    ));
    Ok(())
}
