use super::*;
use serde_json::json;
use std::collections::BTreeMap;

fn labels(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

#[test]
fn label_selectors_match() {
    for (selector, set, want) in [
        ("", "", true),
        ("x=a", "x=a", true),
        ("x==a,y!=b", "x=a", true),
        ("x=a,y!=b", "x=a,y=b", false),
        ("x in (a,b)", "x=b", true),
        ("x notin (a, b)", "y=a", true),
        ("x notin (a, b)", "x=a", false),
        ("x", "x=", true),
        ("!x", "x=", false),
        ("! x", "", true),
        ("x=", "x=", true),
        ("x in ()", "x=", true),
        ("x in (,a)", "x=", true),
        ("x>1", "x=2", true),
        ("x>1", "x=b", false),
        ("x<1", "x=0", true),
        ("in in (in)", "in=in", true),
        ("notin", "notin=1", true),
        ("example.com/x=a", "example.com/x=a", true),
    ] {
        let parsed = LabelSelector::parse(selector).unwrap();
        assert_eq!(parsed.matches(&labels(set)), want, "{selector} on {set}");
        assert_eq!(LabelSelector::parse(&parsed.to_string()).unwrap(), parsed, "{selector} again");
    }
}

#[test]
fn malformed_label_selectors_are_refused() {
    for selector in [
        "x=a||y=b",
        "x==a==b",
        "!x=a",
        "x<a",
        "x=,y,",
        ",x=a",
        "x in a",
        "x in (a",
        "x in (a b)",
        "x in (a))",
        "=a",
        "!",
        "x>",
        "x!a",
        "-x",
        "x/",
        "/x",
        "x/y/z",
        "X.Y/z",
        "x=a b",
        "x=-",
        "x notin",
    ] {
        assert!(LabelSelector::parse(selector).is_err(), "{selector:?}");
    }
}

#[test]
fn label_selector_objects() {
    let selector = json!({"matchLabels": {"a": "b"}, "matchExpressions": [
        {"key": "c", "operator": "In", "values": ["d", "e"]}, {"key": "f", "operator": "DoesNotExist"}]});
    let parsed = LabelSelector::from_object(Some(&selector)).unwrap();
    assert_eq!(parsed.to_string(), "a=b,c in (d,e),!f");
    assert!(parsed.matches(&labels("a=b,c=e")) && !parsed.matches(&labels("a=b,c=e,f=")));
    assert!(LabelSelector::from_object(Some(&json!({}))).unwrap().matches(&labels("")));
    assert!(!LabelSelector::from_object(None).unwrap().matches(&labels("")));
    for (operator, values) in
        [("Gt", json!(["1"])), ("In", json!([])), ("Exists", json!(["a"])), ("x", json!([]))]
    {
        let selector = json!({"matchExpressions": [{"key": "a", "operator": operator, "values": values}]});
        assert!(LabelSelector::from_object(Some(&selector)).is_err(), "{selector}");
    }
}

#[test]
fn field_selectors() {
    let selector =
        FieldSelector::parse(r"metadata.name=a\,b,spec.nodeName!=n,status.phase==Running").unwrap();
    assert_eq!(selector.exact("metadata.name"), Some("a,b"));
    assert_eq!(selector.to_string(), r"metadata.name=a\,b,spec.nodeName!=n,status.phase=Running");
    let get = |field: &str| match field {
        "metadata.name" => Some("a,b"),
        "status.phase" => Some("Running"),
        _ => None,
    };
    assert!(selector.matches(get));
    assert!(!FieldSelector::parse("spec.nodeName!=").unwrap().matches(get));
    assert!(FieldSelector::parse("").unwrap().is_everything());
    for bad in ["x", "x=a=b", r"x=\a", r"x=a\"] {
        assert!(FieldSelector::parse(bad).is_err(), "{bad}");
    }
}

proptest::proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "[ab/.!=(),<> \\\\in]{0,24}") {
        if let Ok(selector) = LabelSelector::parse(&text) {
            proptest::prop_assert_eq!(LabelSelector::parse(&selector.to_string()).unwrap(), selector);
        }
        if let Ok(selector) = FieldSelector::parse(&text) {
            proptest::prop_assert_eq!(FieldSelector::parse(&selector.to_string()).unwrap(), selector);
        }
    }
}
