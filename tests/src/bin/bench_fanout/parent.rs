//! Starts the processes, gives the orders and does the sums.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::usage::Usage;

/// How much is measured.
#[derive(Clone, Copy)]
struct Size {
    rounds: usize,
    updates: usize,
}

/// Connections, and streams on each.
const SHAPES: [(usize, usize); 5] = [(1, 1), (10, 1), (50, 1), (1000, 1), (1, 1000)];

/// Members of the last figure.
const MEMBERS: usize = 1000;

pub fn run(quick: bool) {
    let size = if quick { Size { rounds: 3, updates: 10 } } else { Size { rounds: 10, updates: 40 } };
    for (connections, streams) in SHAPES {
        let sides = ["ours", "raw"].map(|which| Side::start(which, connections, streams));
        let [ours, raw] = measure(sides, size);
        let ratio = |part| round(ours.quantile(part).as_secs_f64() / raw.quantile(part).as_secs_f64());
        let values = json!({
            "connections": connections,
            "streams": connections * streams,
            "updates": ours.times.len(),
            "payload_bytes": 200,
            "ours": ours.values(),
            "raw_tonic": raw.values(),
            "p50_ratio": ratio(0.5),
            "p99_ratio": ratio(0.99),
            "publisher_cpu_ratio": round(ours.publisher_cpu.as_secs_f64() / raw.publisher_cpu.as_secs_f64()),
            "client": "plain tonic channels, in a process of their own",
        });
        println!("{}", json!({ "figure": "one update to the last subscriber", "values": values }));
    }
    let [side] = measure([Side::of_members(MEMBERS)], size);
    let mut values = side.values();
    values["members"] = json!(MEMBERS);
    values["client"] = json!("our pool, a directed channel to each member");
    println!("{}", json!({ "figure": "one subscriber of many members", "values": values }));
}

fn round(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

fn millis(time: Duration) -> f64 {
    round(time.as_secs_f64() * 1e3)
}

/// A process that answers lines with lines. Dropped, it is killed.
struct Process {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Process {
    fn start(words: &[&str]) -> Self {
        let program = std::env::current_exe().expect("this program's path");
        let mut command = Command::new(program);
        let mut child = command
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("another process of this program");
        let (orders, answers) = (child.stdin.take(), child.stdout.take());
        let (orders, answers) = (orders.expect("its input"), answers.expect("its output"));
        Self { child, orders, answers: BufReader::new(answers) }
    }

    fn read(&mut self) -> String {
        let mut line = String::new();
        let length = self.answers.read_line(&mut line).expect("a line");
        assert!(length > 0, "a process of the bench ended");
        line.truncate(line.trim_end().len());
        line
    }

    fn ask(&mut self, order: &str) -> String {
        writeln!(self.orders, "{order}").expect("its input");
        self.read()
    }

    fn usage(&mut self) -> Usage {
        Usage::parse(&self.ask("usage"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A publisher and its subscribers, and what they took.
struct Side {
    publisher: Process,
    subscribers: Process,
    streams: i64,
    publisher_memory: i64,
    subscriber_memory: i64,
    times: Vec<Duration>,
    publisher_cpu: Duration,
    subscriber_cpu: Duration,
}

impl Side {
    fn new(publisher: Process, subscribers: Process, streams: i64, memory: [i64; 2]) -> Self {
        let [publisher_memory, subscriber_memory] = memory;
        Self {
            publisher,
            subscribers,
            streams,
            publisher_memory,
            subscriber_memory,
            times: Vec::new(),
            publisher_cpu: Duration::ZERO,
            subscriber_cpu: Duration::ZERO,
        }
    }

    fn start(which: &str, connections: usize, streams: usize) -> Self {
        let mut publisher = Process::start(&["publish", which]);
        let address = publisher.read();
        let before = publisher.usage();
        let count = |number: usize| number.to_string();
        let mut subscribers = Process::start(&["subscribe", &address, &count(connections), &count(streams)]);
        assert_eq!(subscribers.read(), "ready");
        let publisher_memory = publisher.usage().rss - before.rss;
        let subscriber_memory = subscribers.usage().rss;
        let streams = (connections * streams) as i64;
        Self::new(publisher, subscribers, streams, [publisher_memory, subscriber_memory])
    }

    fn of_members(count: usize) -> Self {
        let mut publisher = Process::start(&["publish-members", &count.to_string()]);
        let addresses = publisher.read();
        let before = publisher.usage();
        let mut subscribers = Process::start(&["subscribe-members", &addresses]);
        let unsubscribed = Usage::parse(&subscribers.read());
        assert_eq!(subscribers.read(), "ready");
        let publisher_memory = publisher.usage().rss - before.rss;
        let subscriber_memory = subscribers.usage().rss - unsubscribed.rss;
        Self::new(publisher, subscribers, count as i64, [publisher_memory, subscriber_memory])
    }

    fn update(&mut self, updates: usize) -> Vec<Duration> {
        let nanos = |line: String| Duration::from_nanos(line.parse().expect("a time"));
        let update = |_| {
            let sent = nanos(self.publisher.ask("put"));
            nanos(self.subscribers.read()).saturating_sub(sent)
        };
        (0..updates).map(update).collect()
    }

    fn round(&mut self, updates: usize) {
        let before = (self.publisher.usage().cpu, self.subscribers.usage().cpu);
        let times = self.update(updates);
        self.times.extend(times);
        self.publisher_cpu += self.publisher.usage().cpu - before.0;
        self.subscriber_cpu += self.subscribers.usage().cpu - before.1;
    }

    fn quantile(&self, part: f64) -> Duration {
        self.times[((self.times.len() - 1) as f64 * part) as usize]
    }

    fn values(&self) -> Value {
        let updates = self.times.len() as u32;
        let mut values = json!({
            "p50_ms": millis(self.quantile(0.5)),
            "p99_ms": millis(self.quantile(0.99)),
            "publisher_cpu_ms": millis(self.publisher_cpu / updates),
            "subscribers_cpu_ms": millis(self.subscriber_cpu / updates),
        });
        // Of few streams the memory of the process itself is all that would be seen.
        if self.streams >= 1000 {
            values["publisher_bytes_per_stream"] = json!(self.publisher_memory / self.streams);
            values["subscriber_bytes_per_stream"] = json!(self.subscriber_memory / self.streams);
        }
        values
    }
}

fn measure<const N: usize>(mut sides: [Side; N], size: Size) -> [Side; N] {
    for side in &mut sides {
        side.update(size.updates);
    }
    for _ in 0..size.rounds {
        for side in &mut sides {
            side.round(size.updates);
        }
    }
    for side in &mut sides {
        side.times.sort();
    }
    sides
}
