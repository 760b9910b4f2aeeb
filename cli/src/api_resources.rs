//! `minikctl api-resources`: what the server serves.

use crate::session::Session;
use crate::table::all_aligned;
use crate::terminal::Terminal;
use crate::{Failure, Globals};
use clap::ArgAction;
use minik_client::Resource;

/// Arguments of `minikctl api-resources`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only those whose objects live in namespaces, or with =false only the others
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    namespaced: Option<bool>,
    /// Only those of this group
    #[arg(long, value_name = "GROUP")]
    api_group: Option<String>,
    /// No head
    #[arg(long)]
    no_headers: bool,
    /// wide or name instead of the usual columns
    #[arg(short, long, value_parser = ["wide", "name"])]
    output: Option<String>,
}

/// Lists them.
///
/// # Errors
/// When the server does not answer.
pub async fn run(globals: &Globals, args: Args) -> Result<(), Failure> {
    let session = Session::open(globals)?;
    execute(&session, &args, &mut Terminal::new(&mut std::io::stdout(), &mut std::io::stderr())).await
}

async fn execute(session: &Session, args: &Args, terminal: &mut Terminal<'_>) -> Result<(), Failure> {
    let discovery = session.discovery().await?;
    let wanted = |one: &&Resource| {
        args.namespaced.is_none_or(|namespaced| one.namespaced == namespaced)
            && args.api_group.as_ref().is_none_or(|group| one.group == *group)
            && !one.verbs.is_empty()
    };
    let mut resources: Vec<&Resource> = discovery.preferred().filter(wanted).collect();
    resources.sort_by(|a, b| (&a.group, &a.plural).cmp(&(&b.group, &b.plural)));
    if args.output.as_deref() == Some("name") {
        return resources.iter().try_for_each(|one| terminal.line(&one.qualified()));
    }
    let wide = args.output.is_some();
    let mut lines = Vec::new();
    if !args.no_headers {
        let head = ["NAME", "SHORTNAMES", "APIVERSION", "NAMESPACED", "KIND"].map(str::to_owned).to_vec();
        let more = ["VERBS", "CATEGORIES"].map(str::to_owned).to_vec();
        lines.push(if wide { [head, more].concat() } else { head });
    }
    for one in resources {
        let mut line = vec![
            one.plural.clone(),
            one.short_names.join(","),
            one.api_version(),
            one.namespaced.to_string(),
            one.kind.clone(),
        ];
        if wide {
            line.extend([one.verbs.join(","), one.categories.join(",")]);
        }
        lines.push(line);
    }
    all_aligned(&lines).iter().try_for_each(|line| terminal.line(line))
}
