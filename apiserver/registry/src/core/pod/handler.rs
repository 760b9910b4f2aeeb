//! Probes and lifecycle hooks.

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use minik_apimachinery::field::{ErrorList, FieldError, Path};

use super::container::PodContext;
use crate::format::{self, invalid};
use crate::meta::check_nonnegative;
use crate::view::{items, text};

/// A probe. Only a readiness probe may ask for several successes, and only others may have a grace period of their own.
pub(crate) fn check_probe(
    probe: &api::Probe,
    is_readiness: bool,
    pod: &PodContext<'_>,
    path: &Path,
    errors: &mut ErrorList,
) {
    let handler = Handler {
        exec: probe.exec.as_ref(),
        http: probe.http_get.as_ref(),
        tcp: probe.tcp_socket.as_ref(),
        grpc: probe.grpc.as_ref(),
        sleep: None,
    };
    check_handler(&handler, pod.grace, path, errors);
    let numbers = [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ];
    for (field, number) in numbers {
        check_nonnegative(number.unwrap_or(0).into(), &path.child(field), errors);
    }
    let grace_path = path.child("terminationGracePeriodSeconds");
    if let Some(grace) = probe.termination_grace_period_seconds {
        if grace <= 0 {
            errors.push(FieldError::invalid(&grace_path, grace, "must be greater than 0"));
        }
        if is_readiness {
            errors.push(FieldError::invalid(&grace_path, grace, "a readiness probe has none"));
        }
    }
    let successes = probe.success_threshold.unwrap_or(0);
    if !is_readiness && successes != 1 {
        errors.push(FieldError::invalid(&path.child("successThreshold"), successes, "must be 1"));
    }
}

/// What runs after a container's start and before its end.
pub(crate) fn check_lifecycle(
    lifecycle: &api::Lifecycle,
    pod: &PodContext<'_>,
    path: &Path,
    errors: &mut ErrorList,
) {
    for (field, hook) in [("postStart", &lifecycle.post_start), ("preStop", &lifecycle.pre_stop)] {
        let Some(hook) = hook else { continue };
        let handler = Handler {
            exec: hook.exec.as_ref(),
            http: hook.http_get.as_ref(),
            tcp: hook.tcp_socket.as_ref(),
            grpc: None,
            sleep: hook.sleep.as_ref(),
        };
        check_handler(&handler, pod.grace, &path.child(field), errors);
    }
    if let Some(signal) = &lifecycle.stop_signal {
        check_stop_signal(signal, pod.os, &path.child("stopSignal"), errors);
    }
}

fn check_stop_signal(signal: &str, os: Option<&str>, path: &Path, errors: &mut ErrorList) {
    const WINDOWS: &[&str] = &["SIGKILL", "SIGTERM"];
    const LINUX: &[&str] = &[
        "SIGABRT",
        "SIGALRM",
        "SIGBUS",
        "SIGCHLD",
        "SIGCLD",
        "SIGCONT",
        "SIGFPE",
        "SIGHUP",
        "SIGILL",
        "SIGINT",
        "SIGIO",
        "SIGIOT",
        "SIGKILL",
        "SIGPIPE",
        "SIGPOLL",
        "SIGPROF",
        "SIGPWR",
        "SIGQUIT",
        "SIGSEGV",
        "SIGSTKFLT",
        "SIGSTOP",
        "SIGSYS",
        "SIGTERM",
        "SIGTRAP",
        "SIGTSTP",
        "SIGTTIN",
        "SIGTTOU",
        "SIGURG",
        "SIGUSR1",
        "SIGUSR2",
        "SIGVTALRM",
        "SIGWINCH",
        "SIGXCPU",
        "SIGXFSZ",
        "SIGRTMIN",
        "SIGRTMAX",
    ];
    let real_time = |prefix: &str, max: u8| {
        signal.strip_prefix(prefix).and_then(|n| n.parse::<u8>().ok()).is_some_and(|n| (1..=max).contains(&n))
    };
    match os {
        None => errors.push(FieldError::forbidden(path, "needs `spec.os.name`")),
        Some("windows") if !WINDOWS.contains(&signal) => {
            errors.push(FieldError::not_supported(path, signal, WINDOWS));
        }
        Some("linux")
            if !LINUX.contains(&signal) && !real_time("SIGRTMIN+", 15) && !real_time("SIGRTMAX-", 14) =>
        {
            errors.push(FieldError::not_supported(path, signal, LINUX));
        }
        Some(_) => {}
    }
}

/// What a probe or a hook does: one of these.
struct Handler<'a> {
    exec: Option<&'a api::ExecAction>,
    http: Option<&'a api::HTTPGetAction>,
    tcp: Option<&'a api::TCPSocketAction>,
    grpc: Option<&'a api::GRPCAction>,
    sleep: Option<&'a api::SleepAction>,
}

fn check_handler(handler: &Handler<'_>, grace: Option<i64>, path: &Path, errors: &mut ErrorList) {
    let mut found = false;
    // The first that is given is checked, each further one is one too many.
    let mut first = |field: &str, is_given: bool, errors: &mut ErrorList| {
        if is_given && found {
            errors.push(FieldError::forbidden(&path.child(field), "only one action may be given"));
            return false;
        }
        found |= is_given;
        is_given
    };
    if first("exec", handler.exec.is_some(), errors)
        && let Some(exec) = handler.exec
        && items(&exec.command).is_empty()
    {
        errors.push(FieldError::required(&path.child("exec").child("command"), ""));
    }
    if first("httpGet", handler.http.is_some(), errors)
        && let Some(http) = handler.http
    {
        check_http(http, &path.child("httpGet"), errors);
    }
    if first("tcpSocket", handler.tcp.is_some(), errors)
        && let Some(tcp) = handler.tcp
    {
        check_port(&tcp.port, &path.child("tcpSocket").child("port"), errors);
    }
    if first("grpc", handler.grpc.is_some(), errors)
        && let Some(grpc) = handler.grpc
    {
        let at = path.child("grpc");
        check_port(&IntOrString::Int(grpc.port), &at.child("port"), errors);
        if let Some(mode) = grpc.mode.as_deref().filter(|m| !["Plaintext", "TLS"].contains(m)) {
            errors.push(FieldError::not_supported(&at.child("mode"), mode, &["Plaintext", "TLS"]));
        }
    }
    if first("sleep", handler.sleep.is_some(), errors)
        && let (Some(sleep), Some(grace)) = (handler.sleep, grace)
        && (sleep.seconds < 0 || sleep.seconds > grace)
    {
        let detail = format!("must be between 0 and terminationGracePeriodSeconds ({grace})");
        errors.push(FieldError::invalid(&path.child("sleep"), sleep.seconds, detail));
    }
    if !found {
        errors.push(FieldError::required(path, "an action must be given"));
    }
}

fn check_http(http: &api::HTTPGetAction, path: &Path, errors: &mut ErrorList) {
    if text(&http.path).is_empty() {
        errors.push(FieldError::required(&path.child("path"), ""));
    }
    check_port(&http.port, &path.child("port"), errors);
    let scheme = text(&http.scheme);
    if !["HTTP", "HTTPS"].contains(&scheme) {
        errors.push(FieldError::not_supported(&path.child("scheme"), scheme, &["HTTP", "HTTPS"]));
    }
    for header in items(&http.http_headers) {
        invalid(format::http_header_name(&header.name), &header.name, &path.child("httpHeaders"), errors);
    }
    let Some(protocol) = http.protocol.as_deref() else { return };
    if !["HTTP1", "HTTP2"].contains(&protocol) {
        errors.push(FieldError::not_supported(&path.child("protocol"), protocol, &["HTTP1", "HTTP2"]));
    } else if protocol == "HTTP2" && scheme != "HTTP" {
        errors.push(FieldError::invalid(&path.child("protocol"), protocol, "needs the scheme HTTP"));
    } else if protocol == "HTTP2" && !text(&http.host).is_empty() {
        errors.push(FieldError::invalid(&path.child("host"), text(&http.host), "must be empty with HTTP2"));
    }
}

/// A port, by number or name.
pub(crate) fn check_port(port: &IntOrString, path: &Path, errors: &mut ErrorList) {
    match port {
        IntOrString::Int(number) => {
            for fault in format::port_number(*number) {
                errors.push(FieldError::invalid(path, *number, fault));
            }
        }
        IntOrString::String(name) => invalid(format::port_name(name), name, path, errors),
    }
}
