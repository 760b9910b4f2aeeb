//! The client over real TLS.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use minik_client::{Identity, ServerAccess, call, connect_as};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// A server that answers with the User-Agent and the path; gives its address, its CA and its count of connections.
async fn server() -> (String, Vec<u8>, Arc<AtomicUsize>) {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(vec!["127.0.0.1".into()]).unwrap();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(signing_key.serialize_der()).into();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let (acceptor, made) = (TlsAcceptor::from(Arc::new(config)), Arc::new(AtomicUsize::new(0)));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("https://{}", listener.local_addr().unwrap());
    let counted = made.clone();
    tokio::spawn(async move {
        loop {
            let stream = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
            counted.fetch_add(1, Ordering::SeqCst);
            let answer = hyper::service::service_fn(|request: Request<hyper::body::Incoming>| async move {
                let agent = request.headers()[http::header::USER_AGENT].to_str().unwrap();
                let body = json!({"agent": agent, "path": request.uri().path()}).to_string();
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(body))))
            });
            let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(http.serve_connection(TokioIo::new(stream), answer));
        }
    });
    (address, cert.pem().into_bytes(), made)
}

#[tokio::test]
async fn calls_that_begin_together_share_one_connection() {
    let (server, ca_pem, made) = server().await;
    let access = ServerAccess { server, server_name: None, ca_pem, identity: Identity::None };
    let client = connect_as(&access, "default", "kube-scheduler/1").unwrap();
    let paths: Vec<String> = (0..20).map(|at| format!("/{at}")).collect();
    let answers = futures::future::join_all(paths.iter().map(|path| call::get::<Value>(&client, path))).await;
    for (path, answer) in paths.iter().zip(answers) {
        assert_eq!(answer.unwrap(), json!({"agent": "kube-scheduler/1", "path": path}));
    }
    assert_eq!(made.load(Ordering::SeqCst), 1);
}
