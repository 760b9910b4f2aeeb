//! Targets of the command line and of clients: manifests, templates, kubeconfigs.

use crate::part;
use minik_cli::{jsonpath::Template, manifest, yaml};
use minik_client::Kubeconfig;
use serde_json::{Value, json};

/// Text: objects in YAML or JSON; what is printed of them is read again as the same.
pub(crate) fn manifest(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(manifests) = manifest::documents("input", text) else { return };
    for manifest in manifests {
        let printed = yaml::print(&manifest.object);
        let again =
            manifest::documents("printed", &printed).unwrap_or_else(|error| panic!("{error}\n{printed}"));
        assert_eq!(again.len(), 1, "{printed}");
        assert!(alike(&again[0].object, &manifest.object), "{printed}\n{}", manifest.object);
    }
}

/// Equal, with numbers by value.
fn alike(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => left == right || left.as_f64() == right.as_f64(),
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| alike(left, right))
        }
        (Value::Object(left), Value::Object(right)) => {
            left.len() == right.len()
                && left.iter().all(|(name, left)| right.get(name).is_some_and(|right| alike(left, right)))
        }
        (left, right) => left == right,
    }
}

/// Text: a template for `-o jsonpath`.
pub(crate) fn jsonpath(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let object = json!({"kind": "List", "items": [
        {"metadata": {"name": "a", "labels": {"a.b/c": "d"}}, "n": 1.5, "list": [[1, 2], {"x": null}]},
        {"metadata": {"name": "b"}, "n": -1, "ok": true},
    ]});
    for template in [Template::parse(text), Template::relaxed(text)].into_iter().flatten() {
        template.text(&object);
        template.values(&object);
    }
}

/// YAML: a kubeconfig that is saved is read again as the same; files that it names are not looked at.
pub(crate) fn kubeconfig(mut input: &[u8]) {
    let (text, context) = (part(&mut input), part(&mut input));
    let folder = tempfile::tempdir().unwrap();
    let (path, copy) = (folder.path().join("config"), folder.path().join("copy"));
    std::fs::write(&path, text).unwrap();
    let Ok(config) = Kubeconfig::load(&path) else { return };
    config.save(&copy).expect("what was read can be written");
    let again = Kubeconfig::load(&copy).unwrap_or_else(|error| {
        panic!("{error:?}\n{}", std::fs::read_to_string(&copy).unwrap());
    });
    assert_eq!(again.current_context(), config.current_context());
    let names_files = ["certificate-authority", "client-key", "client-certificate", "tokenFile"]
        .iter()
        .any(|field| text.windows(field.len()).any(|window| window == field.as_bytes()));
    if !names_files {
        let context = std::str::from_utf8(context).ok().filter(|context| !context.is_empty());
        assert_eq!(again.access(context).is_ok(), config.access(context).is_ok());
    }
}
