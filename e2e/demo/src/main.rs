//! The demo: a server that says where it runs and what it reaches, for the examples and for trying things out. `minik-demo
//! image` writes an archive with the image `minik.local/demo:1`, which holds this program and nothing else that it does not
//! need. Tests of rollouts give it other tags: the tag is the version that the server names.

mod http;
mod image;
mod reach;

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

const USAGE: &str = "\
usage: minik-demo [serve] [--port N] [--listen-delay SECONDS] [--delay SECONDS] [--drain SECONDS]
                         [--exit-after SECONDS] [--exit-code N]
       minik-demo run [--exit-after SECONDS] [--exit-code N] [--say TEXT]
       minik-demo sleep SECONDS
       minik-demo image [--image NAME]

serve   answers over HTTP: / (where it runs), /who (host, version and client in one line), /healthz, /readyz, /env,
        /headers, /file?path=, /exit?code=, /drain?seconds= (no longer ready; answers after that time), and what it
        reaches: /lookup?name=, /connect?to=HOST:PORT[&path=], /udp?to=HOST:PORT&hex=
        answers over UDP at the same port: host, version, client, and what it was sent
          --listen-delay seconds until it listens at all
          --delay        seconds until /healthz and /readyz say yes
          --drain        seconds for which it goes on after SIGTERM, saying no to /readyz
        requests under way are answered before it ends
run     prints a line and ends: for init containers and jobs
sleep   waits: for preStop hooks
image   writes the image archive to standard output, under another name if it is given one
";

/// What the command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Options {
    port: u16,
    listen_delay: Duration,
    delay: Duration,
    drain: Duration,
    exit_after: Option<Duration>,
    exit_code: u8,
    say: Option<String>,
    image: String,
}

fn main() -> ExitCode {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let command = match arguments.first() {
        Some(first) if !first.starts_with('-') => arguments.remove(0),
        _ => "serve".to_owned(),
    };
    if command == "sleep" {
        return sleep(&arguments);
    }
    let options = match parse(&arguments) {
        Ok(options) => options,
        Err(sentence) => {
            eprint!("{sentence}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let done = match command.as_str() {
        "serve" => http::serve(Arc::new(options)),
        "run" => run(&options),
        "image" => {
            image::archive(&options.image).and_then(|bytes| std::io::stdout().write_all(&bytes)).map(|()| 0)
        }
        other => {
            eprint!("minik-demo knows no command {other:?}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            eprintln!("minik-demo {command}: {e}");
            ExitCode::FAILURE
        }
    }
}

fn sleep(arguments: &[String]) -> ExitCode {
    let seconds = arguments.first().and_then(|text| text.parse().ok());
    match seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()) {
        Some(time) => {
            std::thread::sleep(time);
            ExitCode::SUCCESS
        }
        None => {
            eprint!("sleep needs a number of seconds\n\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn run(options: &Options) -> std::io::Result<u8> {
    println!("{}", options.say.clone().unwrap_or_else(|| format!("hello from {}", http::host_name())));
    if let Some(after) = options.exit_after {
        std::thread::sleep(after);
    }
    Ok(options.exit_code)
}

fn parse(arguments: &[String]) -> Result<Options, String> {
    let mut options = Options {
        port: 8080,
        listen_delay: Duration::ZERO,
        delay: Duration::ZERO,
        drain: Duration::ZERO,
        exit_after: None,
        exit_code: 0,
        say: None,
        image: image::NAME.to_owned(),
    };
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let (flag, inline) = match argument.split_once('=') {
            Some((flag, value)) => (flag, Some(value.to_owned())),
            None => (argument.as_str(), None),
        };
        let value = match inline.or_else(|| rest.next().cloned()) {
            Some(value) => value,
            None => return Err(format!("{flag} needs a value")),
        };
        let bad = || format!("{flag} cannot be {value:?}");
        let seconds = || value.parse().ok().and_then(|s| Duration::try_from_secs_f64(s).ok()).ok_or_else(bad);
        match flag {
            "--port" => options.port = value.parse().map_err(|_| bad())?,
            "--listen-delay" => options.listen_delay = seconds()?,
            "--delay" => options.delay = seconds()?,
            "--drain" => options.drain = seconds()?,
            "--exit-after" => options.exit_after = Some(seconds()?),
            "--exit-code" => options.exit_code = value.parse().map_err(|_| bad())?,
            "--image" => options.image = value,
            "--say" => options.say = Some(value),
            _ => return Err(format!("there is no flag {flag}")),
        }
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn flags_are_read() {
        let options =
            parse(&words("--port 81 --delay=1.5 --drain 2 --exit-code 3 --listen-delay 1")).unwrap();
        assert_eq!(options.listen_delay, Duration::from_secs(1));
        assert_eq!((options.port, options.exit_code), (81, 3));
        assert_eq!((options.delay, options.drain), (Duration::from_millis(1500), Duration::from_secs(2)));
        assert_eq!(parse(&words("--port x")), Err("--port cannot be \"x\"".into()));
        assert_eq!(parse(&words("--port")), Err("--port needs a value".into()));
        assert_eq!(parse(&words("--speed 3")), Err("there is no flag --speed".into()));
    }
}
