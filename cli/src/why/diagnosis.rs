//! What is found to be wrong, and what would mend it; for people and for programs.

use serde::Serialize;
use std::time::Duration;

/// Causes are shown up to this many lines; the rest is counted.
const LINES: usize = 8;

/// Why an object is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Default)]
#[serde(rename_all = "camelCase")]
pub struct Diagnosis {
    /// The state that is explained: `Pending`, `not Ready`, `Terminating`.
    pub state: String,
    /// The answer in a few words.
    pub summary: String,
    /// What stands against it.
    pub causes: Vec<Cause>,
    /// What would mend it; one is enough.
    pub suggestions: Vec<Suggestion>,
}

/// One thing that stands against it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cause {
    /// Whom it concerns: a node, a container, an object.
    pub subject: String,
    /// What it is.
    #[serde(flatten)]
    pub what: What,
}

/// What can stand against it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "cause", rename_all_fields = "camelCase")]
#[allow(missing_docs)] // the fields are what the line says
pub enum What {
    // Nodes
    Insufficient { resource: String, asks: String, free: String, of: String },
    TooManyPods { pods: i64, of: i64 },
    Cordoned,
    NodeNotReady { words: String },
    NodeGone,
    Taint { taint: String },
    NodeSelector { wants: String, has: Option<String> },
    OtherNode { wants: String },
    HostPort { port: u16, protocol: String, taken_by: String },
    Spread { words: String },
    PodAffinity { words: String },
    PodAntiAffinity { taken_by: String, topology_key: String },
    AlreadyFits,
    NoNode,
    // Scheduling
    SchedulingGate { gates: Vec<String> },
    SchedulerNotRunning { words: String },
    SchedulerError { words: String },
    Claim { words: String },
    // Containers
    Image { image: String, words: String },
    Missing { used_by: String },
    NotStarted { reason: String, words: String },
    Crash { exit_code: i32, reason: String, restarts: i32, log: Vec<String> },
    OomKilled { limit: Option<String>, restarts: i32 },
    Probe { probe: String, words: String },
    Init { words: String },
    Waiting { words: String },
    // Pods
    Finalizer { finalizers: Vec<String> },
    Refused { reason: String, words: String },
    ReadinessGate { condition: String },
    // Others
    CannotMakePods { words: String },
    NoProgress { words: String },
    NoPods { selector: String },
    NoPort { port: String },
}

impl What {
    fn line(&self) -> String {
        match self {
            What::Insufficient { resource, asks, free, of } => {
                format!("asks {resource} {asks}, free {free} of {of}")
            }
            What::TooManyPods { pods, of } => format!("has {pods} Pods of {of} that it takes"),
            What::Cordoned => "cordoned".into(),
            What::NodeNotReady { words } => format!("not ready: {words}"),
            What::NodeGone => "the node is gone".into(),
            What::Taint { taint } => format!("taint {taint} not tolerated"),
            What::NodeSelector { wants, has: Some(has) } => format!("does not meet {wants} (it has {has})"),
            What::NodeSelector { wants, has: None } => format!("does not meet {wants}"),
            What::OtherNode { wants } => format!("is not {wants}, which the Pod names"),
            What::HostPort { port, protocol, taken_by } => {
                format!("host port {port}/{protocol} is taken by pod {taken_by}")
            }
            What::Spread { words } | What::PodAffinity { words } | What::Waiting { words } => words.clone(),
            What::PodAntiAffinity { taken_by, topology_key } => {
                format!("pod {taken_by} keeps it away (anti-affinity over {topology_key})")
            }
            What::AlreadyFits => "fits".into(),
            What::NoNode => "there is none".into(),
            What::SchedulingGate { gates } => format!("holds it back: {}", gates.join(", ")),
            What::SchedulerNotRunning { words }
            | What::SchedulerError { words }
            | What::Claim { words }
            | What::CannotMakePods { words }
            | What::NoProgress { words } => words.clone(),
            What::Image { image, words } => format!("image {image:?}: {words}"),
            What::Missing { used_by } => format!("is missing; {used_by} needs it"),
            What::NotStarted { reason, words } if words.is_empty() => reason.clone(),
            What::NotStarted { reason, words } => format!("{reason}: {words}"),
            What::Crash { exit_code, reason, restarts, log } => {
                let last = match log.is_empty() {
                    true => "; it wrote nothing",
                    false => "; it wrote last:",
                };
                format!("exit code {exit_code} ({reason}), {}{last}", times(*restarts))
            }
            What::OomKilled { limit, restarts } => {
                let limit = limit.as_ref().map(|limit| format!(" of {limit}")).unwrap_or_default();
                format!(
                    "used more memory than its limit{limit} and was killed (OOMKilled), {}",
                    times(*restarts)
                )
            }
            What::Probe { probe, words } => format!("{probe} probe failed: {words}"),
            What::Init { words } => words.clone(),
            What::Finalizer { finalizers } => format!("must first be removed: {}", finalizers.join(", ")),
            What::Refused { reason, words } => format!("{reason}: {words}"),
            What::ReadinessGate { condition } => format!("{condition} is not True"),
            What::NoPods { selector } => format!("no Pod bears the labels {selector}"),
            What::NoPort { port } => format!("no port of its Pods is named {port:?}"),
        }
    }

    fn below(&self) -> &[String] {
        match self {
            What::Crash { log, .. } => log,
            _ => &[],
        }
    }
}

fn times(restarts: i32) -> String {
    match restarts {
        0 => "not restarted".into(),
        1 => "restarted once".into(),
        many => format!("restarted {many} times"),
    }
}

/// What would mend it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Suggestion {
    /// In words.
    pub what: String,
    /// The command that does it, where one does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
}

impl Suggestion {
    /// In words only.
    pub fn words(what: impl Into<String>) -> Suggestion {
        Suggestion { what: what.into(), command: None }
    }

    /// By a command.
    pub fn run(what: impl Into<String>, command: impl Into<String>) -> Suggestion {
        Suggestion { what: what.into(), command: Some(command.into()) }
    }
}

impl Diagnosis {
    /// One cause of its own.
    pub fn new(state: &str, summary: impl Into<String>) -> Diagnosis {
        Diagnosis { state: state.into(), summary: summary.into(), ..Diagnosis::default() }
    }

    /// Adds a cause.
    pub fn cause(&mut self, subject: impl Into<String>, what: What) {
        self.causes.push(Cause { subject: subject.into(), what });
    }

    /// Adds a suggestion that is not there yet.
    pub fn suggest(&mut self, suggestion: Suggestion) {
        if !self.suggestions.contains(&suggestion) {
            self.suggestions.push(suggestion);
        }
    }

    /// As it is shown; `age` is that of the state it was found in.
    pub fn text(&self, age: Duration) -> String {
        let mut text =
            format!("Why {}: {} (decided {:.1}s ago)\n", self.state, self.summary, age.as_secs_f64());
        let rows = self.rows();
        let width = rows.iter().take(LINES).map(|(subject, ..)| subject.chars().count()).max().unwrap_or(0);
        for (subject, line, below) in rows.iter().take(LINES) {
            text += &format!("  {subject:width$}  {line}\n");
            below.iter().for_each(|line| text += &format!("  {:width$}    | {line}\n", ""));
        }
        if rows.len() > LINES {
            text += &format!("  and {} more\n", rows.len() - LINES);
        }
        if !self.suggestions.is_empty() {
            let one = |one: &Suggestion| match &one.command {
                Some(command) => format!("{}: {command}", one.what),
                None => one.what.clone(),
            };
            let all: Vec<String> = self.suggestions.iter().map(one).collect();
            text += &format!("Try: {}\n", all.join(", or "));
        }
        text
    }

    /// A row a subject; where there are too many, those of which the same is said share one.
    fn rows(&self) -> Vec<(String, String, &[String])> {
        let mut rows: Vec<(String, String, &[String])> = Vec::new();
        for Cause { subject, what } in &self.causes {
            match rows.last_mut().filter(|(last, _, below)| last == subject && below.is_empty()) {
                Some((_, line, below)) => {
                    *line = format!("{line}; {}", what.line());
                    *below = what.below();
                }
                None => rows.push((subject.clone(), what.line(), what.below())),
            }
        }
        if rows.len() <= LINES {
            return rows;
        }
        let mut shared: Vec<(String, String, &[String], usize)> = Vec::new();
        for (subject, line, below) in rows {
            match shared.iter_mut().find(|(_, other, ..)| *other == line) {
                Some((.., count)) => *count += 1,
                None => shared.push((subject, line, below, 1)),
            }
        }
        let named = |(subject, line, below, count): (String, String, _, usize)| match count {
            1 => (subject, line, below),
            count => (format!("{subject} and {} like it", count - 1), line, below),
        };
        shared.into_iter().map(named).collect()
    }
}
