//! Random objects of every kind that is served: whatever is sent, the answer is about what is sent, and never that the server
//! cannot cope.

#[path = "../../../lib/apimachinery/tests/generate/mod.rs"]
mod generate;

use crate::client::Client;
use generate::{Chance, object};
use minik_apimachinery::facts;
use minik_registry::{Resource, Verb};
use serde_json::{Value, json};

const DEPTH: usize = 7;
const TRIES: u64 = 40;

fn collection(resource: &Resource, version: &str) -> String {
    let root =
        if resource.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", resource.group) };
    let scope = if resource.namespaced() { "/namespaces/default" } else { "" };
    format!("{root}/{version}{scope}/{}", resource.plural)
}

fn random(resource: &Resource, version: &'static str, name: &str, chance: &mut Chance) -> Value {
    let api_version = resource.kind_in(version).api_version();
    let ty = facts::kind(&api_version, resource.kind).unwrap();
    let mut tree = object(ty, chance, DEPTH);
    tree["apiVersion"] = api_version.into();
    tree["kind"] = resource.kind.into();
    tree["metadata"] = json!({"name": name});
    tree
}

/// Sends a tree; what is odd about the answer, if anything.
async fn odd(client: &Client, method: &str, uri: &str, body: &Value) -> Option<String> {
    let answer = client.send(method, uri, "application/json", body.to_string()).await;
    let text = String::from_utf8_lossy(&answer.body);
    let odd = answer.code == 500 || text.contains("the object cannot be read");
    odd.then(|| format!("{method} {uri} {body}\n   {}: {text}", answer.code))
}

#[tokio::test]
async fn no_object_is_too_odd() {
    let client = Client::new().await;
    client.must("POST", "/api/v1/namespaces", &json!({"metadata": {"name": "default"}})).await;
    let mut problems = Vec::new();
    for strategy in minik_registry::all() {
        let resource = strategy.resource();
        if resource.storage_prefix.is_none() || !resource.verbs.has(Verb::Update) {
            continue;
        }
        for version in resource.versions {
            let place = collection(resource, version);
            for seed in 0..TRIES {
                let mut chance = Chance::new(seed * 31 + 1);
                let body = random(resource, version, "a", &mut chance);
                problems.extend(odd(&client, "POST", &format!("{place}?dryRun=All"), &body).await);
            }
        }
    }
    assert!(problems.is_empty(), "{}:\n{}", problems.len(), problems[..problems.len().min(8)].join("\n"));
    client.end().await;
}

/// A change of a sample, and of its status: a part of it is replaced by a random one.
#[tokio::test]
async fn no_change_is_too_odd() {
    let client = Client::new().await;
    client.must("POST", "/api/v1/namespaces", &json!({"metadata": {"name": "default"}})).await;
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/upstream-1.37/samples.json");
    let samples: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let mut problems = Vec::new();
    for sample in &samples {
        let api_version = sample["apiVersion"].as_str().unwrap();
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let Some(strategy) = minik_registry::find_kind(group, version, sample["kind"].as_str().unwrap())
        else {
            continue;
        };
        let resource = strategy.resource();
        let version = resource.versions.iter().find(|known| **known == version).unwrap();
        let place = collection(resource, version);
        let mut sample = sample.clone();
        sample["metadata"].as_object_mut().unwrap().remove("namespace");
        let answer = client.send("POST", &place, "application/json", sample.to_string()).await;
        if answer.code != 201 {
            continue;
        }
        let made = answer.json();
        let name = made["metadata"]["name"].as_str().unwrap();
        let parts = resource.subresources.iter().filter(|sub| sub.verbs.has(Verb::Update));
        for part in [""]
            .into_iter()
            .chain(parts.map(|sub| sub.name))
            .filter(|part| !["scale", "proxy"].contains(part))
        {
            for seed in 0..TRIES {
                let mut chance = Chance::new(seed * 37 + 1);
                let mut body = random(resource, version, name, &mut chance);
                body["metadata"] = made["metadata"].clone();
                if seed % 2 == 0 && part.is_empty() {
                    let mut whole = made.clone();
                    whole["status"] = body["status"].clone();
                    body = whole;
                }
                let uri = format!("{place}/{name}/{part}?dryRun=All");
                problems.extend(odd(&client, "PUT", uri.replace("/?", "?").as_str(), &body).await);
            }
        }
    }
    assert!(problems.is_empty(), "{}:\n{}", problems.len(), problems[..problems.len().min(8)].join("\n"));
    client.end().await;
}
