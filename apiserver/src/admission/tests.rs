//! The plugins over a few objects.

use super::*;
use crate::authn::MASTERS;
use crate::authz::Rule;
use minik_component::SeededChance;
use serde_json::json;
use std::collections::BTreeMap;

#[derive(Default)]
struct Stored(BTreeMap<(String, String, String), Value>);

impl Stored {
    fn with(mut self, folder: &str, object: Value) -> Stored {
        let of = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        self.0.insert((folder.into(), of("namespace"), of("name")), object);
        self
    }
}

impl Objects for Stored {
    fn get(&self, folder: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        self.0.get(&(folder.to_owned(), namespace.to_owned(), name.to_owned())).cloned().map(Arc::new)
    }

    fn list(&self, folder: &str, namespace: &str) -> Vec<Value> {
        let inside =
            |key: &(String, String, String)| key.0 == folder && (namespace.is_empty() || key.1 == namespace);
        self.0.iter().filter(|(key, _)| inside(key)).map(|(_, object)| object.clone()).collect()
    }
}

/// A small cluster: namespaces `n` and, being deleted, `gone`; an account; classes; node `a` with a Pod `mine`, and a Pod
/// `other` on node `b`.
fn world() -> Stored {
    let namespace = |name: &str, phase: &str| json!({"metadata": {"name": name}, "status": {"phase": phase}});
    let pod = |name: &str, node: &str| {
        json!({"metadata": {"namespace": "n", "name": name, "uid": format!("uid-{name}")}, "spec": {"nodeName": node,
            "volumes": [{"projected": {"sources": [{"serviceAccountToken": {"path": "t"}},
                {"serviceAccountToken": {"path": "v", "audience": "vault"}}]}}]}})
    };
    Stored::default()
        .with("namespaces", namespace("n", "Active"))
        .with("namespaces", namespace("gone", "Terminating"))
        .with("namespaces", namespace("kube-node-lease", "Active"))
        .with("serviceaccounts", json!({"metadata": {"namespace": "n", "name": "default"}, "imagePullSecrets": [{"name": "pull"}]}))
        .with("serviceaccounts", json!({"metadata": {"namespace": "n", "name": "quiet"}, "automountServiceAccountToken": false}))
        .with("serviceaccounts", json!({"metadata": {"namespace": "n", "name": "strict",
            "annotations": {"kubernetes.io/enforce-mountable-secrets": "true"}}, "secrets": [{"name": "mine"}]}))
        .with("priorityclasses", json!({"metadata": {"name": "high"}, "value": 1000, "preemptionPolicy": "Never"}))
        .with("minions", json!({"metadata": {"name": "a", "uid": "uid-a"}}))
        .with("pods", pod("mine", "a"))
        .with("pods", pod("other", "b"))
}

struct Request<'a> {
    user: UserInfo,
    /// `pods`, or `pods/status`.
    resource: &'a str,
    operation: Operation,
    namespace: &'a str,
    name: &'a str,
    old: Option<Value>,
}

impl Request<'_> {
    fn create(resource: &str) -> Request<'_> {
        let namespace = if resource == "nodes" { "" } else { "n" };
        let user = UserInfo::known("admin", &[MASTERS]);
        Request { user, resource, operation: Operation::Create, namespace, name: "", old: None }
    }

    fn by_node(self) -> Self {
        Request { user: UserInfo::known("system:node:a", &["system:nodes"]), ..self }
    }

    /// Walks the chain twice; gives the object as it came out.
    fn over(&self, stored: Stored, object: Value) -> Result<Value, ApiError> {
        self.warned(stored, object).0
    }

    /// The same with the warnings.
    fn warned(&self, stored: Stored, mut object: Value) -> (Result<Value, ApiError>, Vec<String>) {
        let warnings = Warnings::default();
        let (plural, subresource) = self.resource.split_once('/').unwrap_or((self.resource, ""));
        let strategy =
            minik_registry::all().iter().find(|strategy| strategy.resource().plural == plural).unwrap();
        let attributes = Attributes {
            user: &self.user,
            resource: strategy.resource(),
            version: "v1",
            subresource,
            operation: self.operation,
            namespace: self.namespace,
            name: self.name,
            dry_run: false,
            old: self.old.as_ref(),
            options: &Value::Null,
            now: jiff::Timestamp::UNIX_EPOCH,
            chance: &SeededChance::new(1),
            warnings: &warnings,
        };
        let chain = chain(Arc::new(stored), Arc::new(Reader));
        let result =
            chain.admit(&attributes, &mut object).and_then(|()| chain.validate(&attributes, &object));
        (result.map(|()| object), warnings.take())
    }

    fn allowed(&self, object: Value) -> Value {
        self.over(world(), object).unwrap()
    }

    /// The refusal's code and words.
    fn refused(&self, object: Value) -> (u16, String) {
        let error = self.over(world(), object).unwrap_err();
        (error.code().0.as_u16(), error.to_string())
    }
}

fn pod() -> Value {
    json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}]}})
}

#[test]
fn a_plain_pod_gets_what_stock_gives_it() {
    let admitted = Request::create("pods").allowed(pod());
    let spec = &admitted["spec"];
    let volume = spec["volumes"][0]["name"].as_str().unwrap();
    let suffix = volume.strip_prefix("kube-api-access-").unwrap();
    assert!(
        suffix.len() == 5 && suffix.chars().all(|c| "bcdfghjklmnpqrstvwxz2456789".contains(c)),
        "{volume}"
    );
    let mount = json!({"name": volume, "readOnly": true, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"});
    assert_eq!(spec["containers"][0]["volumeMounts"], json!([mount]));
    assert_eq!(spec["volumes"][0]["projected"]["sources"].as_array().unwrap().len(), 3);
    assert_eq!(
        (&spec["serviceAccountName"], &spec["serviceAccount"]),
        (&json!("default"), &json!("default"))
    );
    assert_eq!(spec["imagePullSecrets"], json!([{"name": "pull"}]));
    assert_eq!((&spec["priority"], &spec["preemptionPolicy"]), (&json!(0), &json!("PreemptLowerPriority")));
    assert_eq!(spec["tolerations"].as_array().unwrap().len(), 2);
}

#[test]
fn tokens_are_mounted_where_they_are_wanted() {
    let volumes = |change: &dyn Fn(&mut Value)| {
        let mut pod = pod();
        change(&mut pod["spec"]);
        let admitted = Request::create("pods").allowed(pod);
        admitted["spec"]["volumes"].as_array().map_or(0, Vec::len)
    };
    assert_eq!(volumes(&|_| {}), 1);
    assert_eq!(volumes(&|spec| spec["automountServiceAccountToken"] = false.into()), 0);
    assert_eq!(volumes(&|spec| spec["serviceAccountName"] = "quiet".into()), 0);
    let place = json!([{"name": "own", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}]);
    assert_eq!(volumes(&|spec| spec["containers"][0]["volumeMounts"] = place.clone()), 0);
    // A volume of that name is used and not made again.
    assert_eq!(volumes(&|spec| spec["volumes"] = json!([{"name": "kube-api-access-x"}])), 1);
}

#[test]
fn pods_name_accounts_that_exist() {
    let mut pod = pod();
    pod["spec"]["serviceAccountName"] = "nobody".into();
    let words = r#"pods "p" is forbidden: error looking up service account n/nobody: serviceaccount "nobody" not found"#;
    assert_eq!(Request::create("pods").refused(pod), (403, words.into()));
}

#[test]
fn an_account_may_allow_only_its_own_secrets() {
    let with = |secret: &str| {
        let mut pod = pod();
        pod["spec"]["serviceAccountName"] = "strict".into();
        pod["spec"]["volumes"] = json!([{"name": "s", "secret": {"secretName": secret}}]);
        pod
    };
    Request::create("pods").allowed(with("mine"));
    let (code, words) = Request::create("pods").refused(with("theirs"));
    assert!(
        code == 403 && words.contains(r#"volume with secret.secretName="theirs" is not allowed"#),
        "{words}"
    );
}

#[test]
fn nothing_is_made_where_nothing_stays() {
    let create = |namespace| Request { namespace, ..Request::create("configmaps") };
    let object = json!({"metadata": {"name": "c"}});
    assert_eq!(create("nowhere").refused(object.clone()), (404, r#"namespaces "nowhere" not found"#.into()));
    let words = r#"configmaps "c" is forbidden: unable to create new content in namespace gone because it is being terminated"#;
    assert_eq!(create("gone").refused(object.clone()), (403, words.into()));
    let error = create("gone").over(world(), object.clone()).unwrap_err();
    assert_eq!(error.status()["details"]["causes"][0]["reason"], "NamespaceTerminating");
    let update = Request { operation: Operation::Update, old: Some(object.clone()), ..create("gone") };
    update.allowed(object);
    let delete =
        |name| Request { operation: Operation::Delete, name, namespace: "", ..Request::create("namespaces") };
    let words = r#"namespaces "kube-system" is forbidden: this namespace may not be deleted"#;
    assert_eq!(delete("kube-system").refused(Value::Null), (403, words.into()));
    delete("n").allowed(Value::Null);
}

#[test]
fn priorities_come_from_classes() {
    let with = |fields: Value| {
        let mut pod = pod();
        pod["spec"].as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        pod
    };
    let create = Request::create("pods");
    let high = create.allowed(with(json!({"priorityClassName": "high"})));
    assert_eq!(
        (&high["spec"]["priority"], &high["spec"]["preemptionPolicy"]),
        (&json!(1000), &json!("Never"))
    );
    assert_eq!(create.refused(with(json!({"priorityClassName": "none"}))).0, 403);
    assert_eq!(create.refused(with(json!({"priority": 5}))).0, 403);
    create.allowed(with(json!({"priority": 0})));
    assert_eq!(create.refused(with(json!({"preemptionPolicy": "Never"}))).0, 403);
    let usual = json!({"metadata": {"name": "usual"}, "value": 7, "globalDefault": true, "preemptionPolicy": "Never"});
    let stored = world().with("priorityclasses", usual.clone());
    let defaulted = create.over(stored, pod()).unwrap();
    assert_eq!(
        (&defaulted["spec"]["priority"], &defaulted["spec"]["priorityClassName"]),
        (&json!(7), &json!("usual"))
    );
    let another = json!({"metadata": {"name": "another"}, "value": 8, "globalDefault": true});
    let create = Request { namespace: "", ..Request::create("priorityclasses") };
    assert_eq!(
        create.over(world().with("priorityclasses", usual), another).unwrap_err().code().0.as_u16(),
        403
    );
}

#[test]
fn an_update_keeps_the_resolved_priority() {
    let old = json!({"metadata": {"name": "p"}, "spec": {"priority": 3, "preemptionPolicy": "Never"}});
    let update = Request { operation: Operation::Update, old: Some(old), ..Request::create("pods") };
    let admitted = update.allowed(pod());
    assert_eq!(
        (&admitted["spec"]["priority"], &admitted["spec"]["preemptionPolicy"]),
        (&json!(3), &json!("Never"))
    );
}

#[test]
fn tolerations_of_ones_own_stay_alone() {
    let count = |tolerations: Value| {
        let mut pod = pod();
        pod["spec"]["tolerations"] = tolerations;
        Request::create("pods").allowed(pod)["spec"]["tolerations"].as_array().unwrap().len()
    };
    assert_eq!(count(json!([{"operator": "Exists"}])), 1);
    assert_eq!(count(json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"}])), 2);
    assert_eq!(count(json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}])), 3);
}

#[test]
fn a_new_node_takes_no_pods_yet() {
    let node = Request::create("nodes").allowed(json!({"metadata": {"name": "b"}}));
    let taint = json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]);
    assert_eq!(node["spec"]["taints"], taint);
    assert_eq!(Request::create("nodes").allowed(node)["spec"]["taints"], taint);
}

#[test]
fn a_runtime_class_must_exist() {
    let mut pod = pod();
    pod["spec"]["runtimeClassName"] = "gvisor".into();
    let words = r#"pods "p" is forbidden: pod rejected: RuntimeClass "gvisor" not found"#;
    assert_eq!(Request::create("pods").refused(pod.clone()), (403, words.into()));
    pod["spec"]["runtimeClassName"] = "".into();
    assert_eq!(Request::create("pods").refused(pod).0, 500);
}

#[test]
fn a_kubelet_changes_its_own_node_only() {
    let create = Request::create("nodes").by_node();
    create.allowed(json!({"metadata": {"name": "a", "labels": {"kubernetes.io/os": "linux", "mine": "1",
        "x.node.kubernetes.io/y": "1"}}}));
    assert_eq!(create.refused(json!({"metadata": {"name": "b"}})).0, 403);
    for label in ["x.node-restriction.kubernetes.io/y", "node-role.kubernetes.io/control-plane", "k8s.io/x"] {
        let (code, words) = create.refused(json!({"metadata": {"name": "a", "labels": {label: "1"}}}));
        assert!(code == 403 && words.contains(label), "{words}");
    }
    let old = json!({"metadata": {"name": "a", "labels": {"kept": "1", "node-role.kubernetes.io/x": ""}},
        "spec": {"taints": [{"key": "k"}]}});
    let update = Request { operation: Operation::Update, name: "a", old: Some(old.clone()), ..create };
    update.allowed(old.clone());
    let changed = |pointer: &str, value: Value| {
        let mut node = old.clone();
        *node.pointer_mut(pointer).unwrap() = value;
        node
    };
    update.allowed(changed("/metadata/labels/kept", "2".into()));
    assert_eq!(update.refused(changed("/metadata/labels", json!({}))).0, 403);
    assert_eq!(update.refused(changed("/spec", json!({}))).0, 403);
    let mut owned = old.clone();
    owned["metadata"]["ownerReferences"] = json!([{"name": "x"}]);
    assert_eq!(update.refused(owned).0, 403);
}

#[test]
fn a_kubelet_shows_its_own_mirror_pods() {
    let mirror = || {
        json!({"metadata": {"name": "m", "annotations": {"kubernetes.io/config.mirror": "h"}, "ownerReferences":
            [{"apiVersion": "v1", "kind": "Node", "name": "a", "uid": "uid-a", "controller": true}]},
            "spec": {"nodeName": "a", "containers": [{"name": "c"}]}})
    };
    let create = Request::create("pods").by_node();
    let admitted = create.allowed(mirror());
    assert!(
        admitted["spec"].get("serviceAccountName").is_none() && admitted["spec"].get("volumes").is_none()
    );
    let refused = |change: &dyn Fn(&mut Value)| {
        let mut pod = mirror();
        change(&mut pod);
        assert_eq!(create.refused(pod).0, 403);
    };
    refused(&|pod| pod["metadata"]["annotations"] = json!({}));
    refused(&|pod| pod["spec"]["nodeName"] = "b".into());
    refused(&|pod| pod["metadata"]["ownerReferences"] = json!([]));
    refused(&|pod| pod["metadata"]["ownerReferences"][0]["uid"] = "uid-b".into());
    refused(&|pod| pod["metadata"]["ownerReferences"][0]["controller"] = false.into());
    refused(&|pod| pod["spec"]["serviceAccountName"] = "default".into());
    refused(&|pod| pod["spec"]["volumes"] = json!([{"name": "s", "secret": {"secretName": "s"}}]));
    refused(&|pod| pod["spec"]["containers"][0]["envFrom"] = json!([{"configMapRef": {"name": "c"}}]));
    refused(&|pod| {
        pod["spec"]["volumes"] = json!([{"name": "c", "persistentVolumeClaim": {"claimName": "c"}}])
    });
}

#[test]
fn a_kubelet_handles_the_pods_on_its_node() {
    let of = |resource, operation, name| Request { operation, name, ..Request::create(resource).by_node() };
    of("pods", Operation::Delete, "mine").allowed(Value::Null);
    assert_eq!(of("pods", Operation::Delete, "other").refused(Value::Null).0, 403);
    assert_eq!(of("pods", Operation::Delete, "missing").refused(Value::Null).0, 404);
    of("pods/eviction", Operation::Create, "mine").allowed(json!({}));
    assert_eq!(of("pods/eviction", Operation::Create, "other").refused(json!({})).0, 403);
    assert_eq!(of("pods/exec", Operation::Connect, "mine").refused(json!({})).0, 403);
    let status = |name| {
        let old = world().get("pods", "n", name).map(Arc::unwrap_or_clone);
        (Request { old: old.clone(), ..of("pods/status", Operation::Update, name) }, old.unwrap())
    };
    let (update, pod) = status("mine");
    update.allowed(pod.clone());
    let mut labelled = pod;
    labelled["metadata"]["labels"] = json!({"a": "b"});
    assert_eq!(update.refused(labelled).0, 403);
    let (update, pod) = status("other");
    assert_eq!(update.refused(pod).0, 403);
}

#[test]
fn a_kubelet_asks_for_tokens_of_its_pods() {
    let ask = |pod: &str, uid: &str, audiences: Value| {
        let request = json!({"spec": {"audiences": audiences,
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": uid}}});
        let create = Request { name: "default", ..Request::create("serviceaccounts/token").by_node() };
        create.over(world(), request).map_or_else(|error| error.code().0.as_u16(), |_| 201)
    };
    assert_eq!(ask("mine", "uid-mine", json!([])), 201);
    assert_eq!(ask("mine", "uid-mine", json!(["vault"])), 201);
    assert_eq!(ask("mine", "uid-mine", json!(["elsewhere"])), 403);
    assert_eq!(ask("mine", "uid-mine", json!(["vault", ""])), 403);
    assert_eq!(ask("mine", "uid-old", json!([])), 403);
    assert_eq!(ask("mine", "", json!([])), 403);
    assert_eq!(ask("other", "uid-other", json!([])), 403);
    assert_eq!(ask("missing", "uid", json!([])), 404);
}

#[test]
fn a_kubelet_renews_its_own_lease() {
    let create = |namespace, name: &str| {
        let create = Request { namespace, ..Request::create("leases").by_node() };
        create.over(world(), json!({"metadata": {"name": name}})).is_ok()
    };
    assert!(create("kube-node-lease", "a"));
    assert!(!create("kube-node-lease", "b"));
    assert!(!create("n", "a"));
}

#[test]
fn a_pod_bears_the_zone_of_its_node() {
    let zone = "topology.kubernetes.io/zone";
    let stored =
        || world().with("minions", json!({"metadata": {"name": "z", "labels": {zone: "1", "other": "2"}}}));
    let bind = Request { name: "p", ..Request::create("pods/binding") };
    let bound = bind.over(stored(), json!({"target": {"kind": "Node", "name": "z"}})).unwrap();
    assert_eq!(bound["metadata"]["labels"], json!({zone: "1"}));
    let unknown = bind.over(stored(), json!({"target": {"kind": "Node", "name": "none"}})).unwrap();
    assert!(unknown.get("metadata").is_none());
    let mut direct = pod();
    direct["spec"]["nodeName"] = "z".into();
    let made = Request::create("pods").over(stored(), direct).unwrap();
    assert_eq!(made["metadata"]["labels"], json!({zone: "1"}));
}

#[test]
fn a_namespace_says_what_its_pods_may_ask_for() {
    let labelled =
        |labels: Value| json!({"metadata": {"name": "n", "labels": labels}, "status": {"phase": "Active"}});
    let stored = |labels: Value| world().with("namespaces", labelled(labels));
    let mut privileged = pod();
    privileged["spec"]["containers"][0]["securityContext"] = json!({"privileged": true});
    let create = Request::create("pods");
    create.allowed(privileged.clone());
    let baseline = json!({"pod-security.kubernetes.io/enforce": "baseline"});
    let error = create.over(stored(baseline.clone()), privileged).unwrap_err();
    let words = r#"pods "p" is forbidden: violates PodSecurity "baseline:latest": privileged (container "c" must not set securityContext.privileged=true)"#;
    assert_eq!(error.to_string(), words);
    create.over(stored(baseline), pod()).unwrap();
    let namespace = Request { namespace: "", ..Request::create("namespaces") };
    let (code, words) = namespace.refused(labelled(json!({"pod-security.kubernetes.io/enforce": "strict"})));
    assert!(code == 422 && words.contains("metadata.labels[pod-security.kubernetes.io/enforce]"), "{words}");
    assert_eq!(namespace.refused(labelled(json!({"pod-security.kubernetes.io/warn-version": "1.2"}))).0, 422);
}

/// Somebody who may read Pods, and bind the role `open`.
struct Reader;

impl Rights for Reader {
    fn of_user(&self, _user: &UserInfo, _namespace: &str) -> Vec<Rule> {
        vec![rule(&["get", "list"], "pods")]
    }

    fn of_role(&self, _kind: &str, _namespace: &str, name: &str) -> Option<Vec<Rule>> {
        match name {
            "reader" => Some(vec![rule(&["get"], "pods")]),
            "writer" | "open" => Some(vec![rule(&["get", "create", "delete"], "pods")]),
            _ => None,
        }
    }

    fn may(&self, attributes: &crate::authz::Attributes) -> bool {
        let on =
            |names: &[&str]| attributes.resource.as_ref().is_some_and(|on| names.contains(&on.name.as_str()));
        match attributes.verb.as_str() {
            "bind" => on(&["open"]),
            "approve" => on(&["example.com/*"]),
            "sign" => on(&["example.com/one"]),
            _ => false,
        }
    }
}

fn rule(verbs: &[&str], resource: &str) -> Rule {
    let texts = |list: &[&str]| list.iter().map(|text| text.to_string()).collect();
    Rule { verbs: texts(verbs), api_groups: texts(&[""]), resources: texts(&[resource]), ..Rule::default() }
}

#[test]
fn nobody_hands_on_what_he_does_not_have() {
    let by = |resource| Request { user: UserInfo::known("reader", &["g"]), ..Request::create(resource) };
    let role = |verbs: &[&str]| json!({"metadata": {"name": "r"}, "rules": [serde_json::to_value(rule(verbs, "pods")).unwrap()]});
    by("roles").allowed(role(&["get"]));
    let words = "roles.rbac.authorization.k8s.io \"r\" is forbidden: user \"reader\" (groups=[\"g\" \"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"create\" \"delete\"]}";
    assert_eq!(by("roles").refused(role(&["get", "create", "delete"])), (403, words.into()));
    Request::create("roles").allowed(role(&["create"]));
    let more = role(&["create"]);
    let relabel = Request { operation: Operation::Update, name: "r", old: Some(more.clone()), ..by("roles") };
    relabel.allowed(more);
    let binding = |role: &str| json!({"metadata": {"name": "b"}, "roleRef": {"kind": "Role", "name": role}, "subjects": []});
    by("rolebindings").allowed(binding("reader"));
    by("rolebindings").allowed(binding("open"));
    assert_eq!(by("rolebindings").refused(binding("writer")).0, 403);
    assert_eq!(by("rolebindings").refused(binding("none")).0, 404);
    let aggregated = json!({"metadata": {"name": "a"}, "aggregationRule": {"clusterRoleSelectors": []}});
    assert_eq!(Request { namespace: "", ..by("clusterroles") }.refused(aggregated).0, 403);
}

fn signing_request(signer: &str, name: &str, organization: &str) -> Value {
    let mut parameters = rcgen::CertificateParams::default();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
    parameters.distinguished_name.push(rcgen::DnType::OrganizationName, organization);
    let pem = parameters.serialize_request(&rcgen::KeyPair::generate().unwrap()).unwrap().pem().unwrap();
    let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, pem);
    json!({"metadata": {"name": "r"}, "spec": {"signerName": signer, "request": encoded}})
}

#[test]
fn only_who_may_for_the_signer_approves_and_signs() {
    let by = |part: &'static str, signer: &str, status: Value| {
        let old = signing_request(signer, "x", "y");
        let mut new = old.clone();
        new["status"] = status;
        let request = Request {
            user: UserInfo::known("jane", &[]),
            resource: part,
            operation: Operation::Update,
            namespace: "",
            name: "r",
            old: Some(old),
        };
        request.over(world(), new).map(drop).map_err(|error| error.code().0.as_u16())
    };
    let (approval, status) = ("certificatesigningrequests/approval", "certificatesigningrequests/status");
    let approved = json!({"conditions": [{"type": "Approved"}]});
    assert_eq!(by(approval, "example.com/any", approved.clone()), Ok(()));
    assert_eq!(by(approval, "other.com/one", approved.clone()), Err(403));
    let signed = json!({"certificate": "eA=="});
    assert_eq!(by(status, "example.com/one", signed.clone()), Ok(()));
    assert_eq!(by(status, "example.com/two", signed), Err(403));
    assert_eq!(by(status, "example.com/two", approved), Err(403));
    assert_eq!(by(status, "example.com/two", Value::Null), Ok(()), "nothing of it changes");
}

#[test]
fn nobody_asks_to_be_a_master_and_kubelets_ask_for_themselves() {
    let ask = |by_node: bool, signer: &str, name: &str, organization: &str| {
        let request = Request { namespace: "", ..Request::create("certificatesigningrequests") };
        let request = if by_node { request.by_node() } else { request };
        let object = signing_request(signer, name, organization);
        request.over(world(), object).map(drop).map_err(|error| error.code().0.as_u16())
    };
    assert_eq!(ask(false, "kubernetes.io/kube-apiserver-client", "x", "team"), Ok(()));
    assert_eq!(ask(false, "kubernetes.io/kube-apiserver-client", "x", MASTERS), Err(403));
    assert_eq!(ask(false, "example.com/one", "x", MASTERS), Ok(()), "others know no masters");
    for signer in ["kubernetes.io/kube-apiserver-client-kubelet", "kubernetes.io/kubelet-serving"] {
        assert_eq!(ask(true, signer, "system:node:a", "system:nodes"), Ok(()));
        assert_eq!(ask(true, signer, "system:node:b", "system:nodes"), Err(403));
    }
}

#[test]
fn pods_to_come_are_warned_of() {
    let labels = json!({"pod-security.kubernetes.io/warn": "restricted", "pod-security.kubernetes.io/enforce": "restricted"});
    let stored = world().with(
        "namespaces",
        json!({"metadata": {"name": "n", "labels": labels}, "status": {"phase": "Active"}}),
    );
    let template = json!({"metadata": {}, "spec": {"containers": [{"name": "c"}]}});
    let object = json!({"metadata": {"name": "d"}, "spec": {"template": template}});
    let (admitted, warnings) = Request::create("deployments").warned(stored, object);
    assert!(admitted.is_ok());
    assert!(warnings[0].starts_with("would violate PodSecurity \"restricted:latest\": "), "{warnings:?}");
}
