//! An etcd of one's own, on free loopback ports and with a folder of its own.

// Each test file uses a part of it.
#![allow(dead_code)]

use std::process::Stdio;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

/// A running etcd; ends with its value.
pub struct Server {
    folder: TempDir,
    client_port: u16,
    peer_port: u16,
    more: Vec<String>,
    child: Child,
}

impl Server {
    pub async fn start() -> Server {
        Server::start_with(&[]).await
    }

    /// With more arguments.
    pub async fn start_with(more: &[&str]) -> Server {
        let mut folder = tempfile::tempdir().unwrap();
        // Another process may take a port between its release and etcd's start: then try others.
        for _ in 0..5 {
            let (client_port, peer_port) = free_ports().await;
            let more: Vec<String> = more.iter().map(|one| one.to_string()).collect();
            let child = spawn(&folder, client_port, peer_port, &more);
            let mut server = Server { folder, client_port, peer_port, more, child };
            if server.answers().await {
                return server;
            }
            folder = server.stop().await;
        }
        panic!("etcd did not start five times")
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.client_port)
    }

    /// Kills it at once, and starts it again with what it has on disk.
    pub async fn restart(&mut self) {
        self.kill().await;
        self.revive().await;
    }

    /// Kills it at once.
    pub async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    /// Starts it again with what it has on disk.
    pub async fn revive(&mut self) {
        self.child = spawn(&self.folder, self.client_port, self.peer_port, &self.more);
        assert!(self.answers().await, "etcd did not come back");
    }

    async fn stop(mut self) -> TempDir {
        // It may have ended by itself.
        let _ = self.child.kill().await;
        self.folder
    }

    /// Waits until it takes connections; false when it ended instead.
    async fn answers(&mut self) -> bool {
        let until = Instant::now() + Duration::from_secs(30);
        while Instant::now() < until {
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            if TcpStream::connect(("127.0.0.1", self.client_port)).await.is_ok() {
                return true;
            }
            // bounded: by the time above.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("etcd did not listen within 30 s")
    }
}

async fn free_ports() -> (u16, u16) {
    let (one, two) =
        (TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    (one.local_addr().unwrap().port(), two.local_addr().unwrap().port())
}

fn spawn(folder: &TempDir, client_port: u16, peer_port: u16, more: &[String]) -> Child {
    let client = format!("http://127.0.0.1:{client_port}");
    let peer = format!("http://127.0.0.1:{peer_port}");
    Command::new("etcd")
        .arg("--data-dir")
        .arg(folder.path().join("data"))
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("default={peer}")])
        .args(more)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("etcd cannot be started; on Debian and Ubuntu: apt-get install etcd-server")
}
