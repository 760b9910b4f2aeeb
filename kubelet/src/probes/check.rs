//! One look at a container: by a command, over HTTP, TCP or gRPC.

use crate::pod::{PodObject, list};
use crate::worker::Context;
use bytes::Bytes;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

/// The most that is read of an answer or a command's output.
const OUTPUT_BYTES: usize = 10 * 1024;
/// Redirects that are followed.
const REDIRECTS: usize = 10;

/// What one look has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Checked {
    /// All is well, with a warning maybe.
    Success(Option<String>),
    /// It is not.
    Failure(String),
    /// It could not be looked at.
    Unknown(String),
}

/// Looks once.
pub async fn check(
    context: &Context,
    pod: &PodObject,
    container: &api::Container,
    probe: &api::Probe,
    (id, ips): (&str, &[String]),
) -> Checked {
    let limit = Duration::from_secs(probe.timeout_seconds.unwrap_or(1).max(1) as u64);
    let of_pod = || match pod.host_network() {
        true => context.node.ips.first().cloned().unwrap_or_default(),
        false => ips.first().cloned().unwrap_or_default(),
    };
    let host_or = |host: &Option<String>| host.clone().filter(|host| !host.is_empty()).unwrap_or_else(of_pod);
    if let Some(exec) = &probe.exec {
        return exec_check(context, id, list(&exec.command), limit).await;
    }
    if let Some(get) = &probe.http_get {
        let Some(port) = port_number(&get.port, container) else {
            return Checked::Unknown(format!("couldn't find port: {:?}", get.port));
        };
        let check = HttpCheck::of(get, host_or(&get.host), port, "kube-probe/1.37");
        return match http_check(&check, limit).await {
            Ok(warning) => Checked::Success(warning),
            Err(words) => Checked::Failure(words),
        };
    }
    if let Some(tcp) = &probe.tcp_socket {
        let Some(port) = port_number(&tcp.port, container) else {
            return Checked::Unknown(format!("couldn't find port: {:?}", tcp.port));
        };
        return tcp_check(&host_or(&tcp.host), port, limit).await;
    }
    if let Some(grpc) = &probe.grpc {
        let service = grpc.service.as_deref().unwrap_or_default();
        return grpc_check(&of_pod(), grpc.port as u16, service, limit).await;
    }
    Checked::Unknown(format!("missing probe handler for {}:{}", pod.long_name(), container.name))
}

/// A port by its number or its name.
pub fn port_number(port: &IntOrString, container: &api::Container) -> Option<u16> {
    match port {
        IntOrString::Int(port) => u16::try_from(*port).ok().filter(|port| *port > 0),
        IntOrString::String(name) => {
            let named = list(&container.ports).iter().find(|port| port.name.as_deref() == Some(name));
            let number = named.map(|port| port.container_port).or_else(|| name.parse().ok())?;
            u16::try_from(number).ok().filter(|port| *port > 0)
        }
    }
}

async fn exec_check(context: &Context, id: &str, command: &[String], limit: Duration) -> Checked {
    match context.runtime.exec(id, command, limit).await {
        Ok(done) => {
            let output = &done.output[..done.output.len().min(OUTPUT_BYTES)];
            match done.exit_code {
                0 => Checked::Success(None),
                _ => Checked::Failure(String::from_utf8_lossy(output).into_owned()),
            }
        }
        Err(error) if error.code == tonic::Code::DeadlineExceeded => {
            Checked::Failure(format!("command timed out: {command:?} timed out after {}s", limit.as_secs()))
        }
        Err(error) => Checked::Unknown(error.to_string()),
    }
}

async fn tcp_check(host: &str, port: u16, limit: Duration) -> Checked {
    let address = joined(host, port);
    match tokio::time::timeout(limit, TcpStream::connect((host, port))).await {
        Ok(Ok(_)) => Checked::Success(None),
        Ok(Err(error)) => Checked::Failure(format!("dial tcp {address}: connect: {}", plain(&error))),
        Err(_) => Checked::Failure(format!("dial tcp {address}: i/o timeout")),
    }
}

fn joined(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// An error of the system without its number, in small letters as upstream's library writes it.
fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

async fn grpc_check(host: &str, port: u16, service: &str, limit: Duration) -> Checked {
    let address = joined(host, port);
    let dial = async {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}"))?;
        endpoint.user_agent("kube-probe/1.37")?.connect().await
    };
    let late = || format!("timeout: failed to connect service {address:?} within {}s", limit.as_secs());
    let channel = match tokio::time::timeout(limit, dial).await {
        Ok(Ok(channel)) => channel,
        Ok(Err(_)) | Err(_) => return Checked::Failure(late()),
    };
    let request = tonic_health::pb::HealthCheckRequest { service: service.to_owned() };
    let mut client = HealthClient::new(channel);
    match tokio::time::timeout(limit, client.check(request)).await {
        Err(_) => {
            Checked::Failure(format!("timeout: health rpc did not complete within {}s", limit.as_secs()))
        }
        Ok(Err(status)) if status.code() == tonic::Code::Unimplemented => Checked::Failure(
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health)".into(),
        ),
        Ok(Err(status)) => Checked::Failure(format!("error: health rpc probe failed: {}", status.message())),
        Ok(Ok(answer)) => match answer.into_inner().status() {
            ServingStatus::Serving => Checked::Success(None),
            other => {
                Checked::Failure(format!("service unhealthy (responded with {:?})", other.as_str_name()))
            }
        },
    }
}

/// A request over HTTP or HTTPS.
#[derive(Debug, Clone)]
pub struct HttpCheck {
    scheme: &'static str,
    host: String,
    port: u16,
    path: String,
    headers: Vec<(String, String)>,
    agent: String,
}

impl HttpCheck {
    /// The request of a probe or hook.
    pub fn of(get: &api::HTTPGetAction, host: String, port: u16, agent: &str) -> HttpCheck {
        let path = get.path.clone().unwrap_or_default();
        HttpCheck {
            scheme: if get.scheme.as_deref() == Some("HTTPS") { "https" } else { "http" },
            host,
            port,
            path: if path.starts_with('/') { path } else { format!("/{path}") },
            headers: list(&get.http_headers)
                .iter()
                .map(|one| (one.name.clone(), one.value.clone()))
                .collect(),
            agent: agent.to_owned(),
        }
    }

    fn url(&self) -> String {
        format!("{}://{}{}", self.scheme, joined(&self.host, self.port), self.path)
    }

    /// Where an answer of this sort leads, on the same host.
    fn redirected(&self, to: &str) -> Option<HttpCheck> {
        let uri: Uri = to.parse().ok()?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let scheme = match uri.scheme_str() {
            Some("https") => "https",
            Some("http") => "http",
            _ => self.scheme,
        };
        match uri.host() {
            Some(host) if host.trim_matches(['[', ']']) != self.host => None,
            _ => {
                let port = match (uri.port_u16(), uri.host()) {
                    (Some(port), _) => port,
                    (None, Some(_)) => {
                        if scheme == "https" {
                            443
                        } else {
                            80
                        }
                    }
                    (None, None) => self.port,
                };
                Some(HttpCheck { scheme, port, path, ..self.clone() })
            }
        }
    }
}

/// Asks; well is any code from 200 to 399. Gives a warning for a redirect to another host.
///
/// # Errors
/// When it is not well, in upstream's words.
pub async fn http_check(check: &HttpCheck, limit: Duration) -> Result<Option<String>, String> {
    let late = || {
        format!(
            "Get {:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
            check.url()
        )
    };
    tokio::time::timeout(limit, follow(check)).await.unwrap_or_else(|_| Err(late()))
}

async fn follow(first: &HttpCheck) -> Result<Option<String>, String> {
    let mut check = first.clone();
    for _ in 0..=REDIRECTS {
        let (code, to) = ask(&check).await.map_err(|words| format!("Get {:?}: {words}", check.url()))?;
        if code.is_redirection()
            && let Some(to) = to
        {
            match check.redirected(&to) {
                Some(next) => {
                    check = next;
                    continue;
                }
                None => return Ok(Some("Probe terminated redirects, Response body: ".to_owned())),
            }
        }
        return match code.as_u16() {
            200..400 => Ok(None),
            code => Err(format!("HTTP probe failed with statuscode: {code}")),
        };
    }
    Err(format!("Get {:?}: stopped after {REDIRECTS} redirects", first.url()))
}

async fn ask(check: &HttpCheck) -> Result<(StatusCode, Option<String>), String> {
    let address = joined(&check.host, check.port);
    let tcp = TcpStream::connect((check.host.as_str(), check.port)).await;
    let tcp = tcp.map_err(|error| format!("dial tcp {address}: connect: {}", plain(&error)))?;
    if check.scheme == "http" {
        return send(check, tcp).await;
    }
    let name = ServerName::try_from(check.host.clone()).map_err(|error| error.to_string())?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(trusting()?));
    let tls = connector.connect(name, tcp).await.map_err(|error| error.to_string())?;
    send(check, tls).await
}

async fn send(
    check: &HttpCheck,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<(StatusCode, Option<String>), String> {
    let own_host = check.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("host"));
    let host = own_host.map_or_else(|| joined(&check.host, check.port), |(_, value)| value.clone());
    let mut request = Request::get(&check.path).header("Host", host);
    let has = |name: &str| check.headers.iter().any(|(own, _)| own.eq_ignore_ascii_case(name));
    for (name, value) in [("User-Agent", check.agent.as_str()), ("Accept", "*/*"), ("Connection", "close")] {
        if !has(name) {
            request = request.header(name, value);
        }
    }
    for (name, value) in check.headers.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("host")) {
        request = request.header(name, value);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
    let broken = |error: hyper::Error| minik_component::chain(&error);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let exchange = async {
        let answer = sender.send_request(request).await.map_err(broken)?;
        let code = answer.status();
        let to = answer.headers().get("Location").and_then(|to| to.to_str().ok()).map(str::to_owned);
        // Read so that the other side sees an orderly end; what is too long does not matter.
        let _ = Limited::new(answer.into_body(), OUTPUT_BYTES).collect().await;
        Ok((code, to))
    };
    // The connection is driven beside the exchange and ends with it.
    let driven = async {
        let _ = connection.await;
        std::future::pending::<()>().await;
    };
    // Cancel-safe: both belong to this one request.
    tokio::select! {
        done = exchange => done,
        () = driven => Err("the connection ended".into()),
    }
}

/// A probe trusts any certificate, as upstream's does.
fn trusting() -> Result<rustls::ClientConfig, String> {
    let provider = minik_component::tls::provider();
    let builder = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let verifier = Arc::new(AnyCertificate(provider));
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

#[derive(Debug)]
struct AnyCertificate(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// Answers each connection with the next of these.
    async fn server(answers: Vec<&'static str>) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut buffer = [0; 4096];
                let _ = stream.read(&mut buffer).await.unwrap();
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        port
    }

    async fn ask_for(answers: Vec<&'static str>) -> Result<Option<String>, String> {
        let port = server(answers).await;
        let get = api::HTTPGetAction { path: Some("/x".into()), ..Default::default() };
        http_check(&HttpCheck::of(&get, "127.0.0.1".into(), port, "t"), Duration::from_secs(5)).await
    }

    #[tokio::test]
    async fn codes_decide() {
        let ok = "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";
        assert_eq!(ask_for(vec![ok]).await, Ok(None));
        let bad = "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(ask_for(vec![bad]).await, Err("HTTP probe failed with statuscode: 503".into()));
        let moved = "HTTP/1.1 302 Found\r\nLocation: /y\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        assert_eq!(ask_for(vec![moved, ok]).await, Ok(None));
        let away = "HTTP/1.1 302 Found\r\nLocation: http://other.example/\r\nContent-Length: 0\r\n\r\n";
        assert!(ask_for(vec![away]).await.unwrap().unwrap().starts_with("Probe terminated redirects"));
    }

    #[tokio::test]
    async fn grpc_health_decides() {
        let (reporter, service) = tonic_health::server::health_reporter();
        reporter.set_service_status("up", tonic_health::ServingStatus::Serving).await;
        reporter.set_service_status("down", tonic_health::ServingStatus::NotServing).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let server = tonic::transport::Server::builder().add_service(service);
        let task = tokio::spawn(server.serve_with_incoming(incoming));
        let limit = Duration::from_secs(5);
        assert_eq!(grpc_check("127.0.0.1", port, "up", limit).await, Checked::Success(None));
        let down = Checked::Failure("service unhealthy (responded with \"NOT_SERVING\")".into());
        assert_eq!(grpc_check("127.0.0.1", port, "down", limit).await, down);
        let unknown = grpc_check("127.0.0.1", port, "other", limit).await;
        assert!(
            matches!(&unknown, Checked::Failure(words) if words.starts_with("error: health rpc probe failed"))
        );
        task.abort();
    }

    #[tokio::test]
    async fn a_refused_connection_fails() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let limit = Duration::from_secs(5);
        assert_eq!(tcp_check("127.0.0.1", port, limit).await, Checked::Success(None));
        drop(listener);
        let want = format!("dial tcp 127.0.0.1:{port}: connect: connection refused");
        assert_eq!(tcp_check("127.0.0.1", port, limit).await, Checked::Failure(want));
    }
}
