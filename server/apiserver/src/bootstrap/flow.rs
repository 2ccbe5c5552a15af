//! The bootstrap objects of flow control, and how they are kept.
//!
//! The mandatory ones (`exempt`, `catch-all`) are always put back. A suggested one is, as long as its annotation
//! `apf.kubernetes.io/autoupdate-spec` says "true", or says nothing and nobody has changed the object; the annotation
//! is then written.

use super::{BootstrapError, Place, Reconcile, Report, defaults, place};
use crate::ApiServer;
use crate::reader::{Reader, Writer, text};
use serde_json::Value;
use std::sync::Arc;

const GROUP: &str = "flowcontrol.apiserver.k8s.io";
const ANNOTATION: &str = "apf.kubernetes.io/autoupdate-spec";

/// PriorityLevelConfigurations and FlowSchemas.
pub(crate) fn objects() -> (Vec<Value>, Vec<Value>) {
    (defaults::priority_levels(), defaults::flow_schemas())
}

pub(super) fn wanted() -> Vec<(Place, Value, Reconcile)> {
    let (levels, schemas) = objects();
    let at = |plural| place(GROUP, "v1", plural);
    let levels = levels.into_iter().map(|o| (at("prioritylevelconfigurations"), o, reconcile as Reconcile));
    levels.chain(schemas.into_iter().map(|o| (at("flowschemas"), o, reconcile as Reconcile))).collect()
}

/// Puts them back where they are missing or, if that is ours to do, changed.
pub(crate) async fn ensure(server: &ApiServer) -> Result<(), BootstrapError> {
    let reader: Arc<dyn Reader> = server.config.cache.clone();
    let writer: Arc<dyn Writer> = Arc::new(server.clone());
    super::apply(&reader, &writer, wanted(), &mut Report::default()).await
}

fn reconcile(existing: &Value, wanted: &Value) -> Option<Value> {
    let mandatory = ["exempt", "catch-all"].contains(&text(wanted, "/metadata/name"));
    let annotation = existing["metadata"]["annotations"][ANNOTATION].as_str();
    let update = mandatory
        || match annotation {
            Some("true") => true,
            Some("false") => false,
            _ => existing["metadata"]["generation"] == 1,
        };
    let said = if update { "true" } else { "false" };
    let differs = update && !same(&existing["spec"], &wanted["spec"]);
    if annotation == Some(said) && !differs {
        return None;
    }
    let mut merged = existing.clone();
    merged["metadata"]["annotations"][ANNOTATION] = said.into();
    if differs {
        merged["spec"] = wanted["spec"].clone();
    }
    Some(merged)
}

/// Equal but for members that hold nothing.
fn same(have: &Value, want: &Value) -> bool {
    match (have, want) {
        (Value::Object(h), Value::Object(w)) => {
            w.iter().all(|(k, v)| same(&h[k.as_str()], v))
                && h.iter().all(|(k, v)| w.contains_key(k) || nothing(v))
        }
        (Value::Array(h), Value::Array(w)) => h.len() == w.len() && h.iter().zip(w).all(|(h, w)| same(h, w)),
        _ => have == want || nothing(have) && nothing(want),
    }
}

fn nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn who_may_change_what() {
        let (levels, _) = objects();
        let named = |name: &str| levels.iter().find(|l| l["metadata"]["name"] == name).unwrap().clone();
        let mut changed = named("system");
        assert!(reconcile(&changed, &named("system")).is_none());
        changed["spec"]["limited"]["nominalConcurrencyShares"] = json!(1);
        let back = reconcile(&changed, &named("system")).unwrap();
        assert_eq!(back["spec"], named("system")["spec"]);
        changed["metadata"]["annotations"][ANNOTATION] = "false".into();
        assert!(reconcile(&changed, &named("system")).is_none());
        // Without the annotation it depends on whether somebody has changed it since it was made.
        changed["metadata"]["annotations"] = json!({});
        changed["metadata"]["generation"] = 2.into();
        let kept = reconcile(&changed, &named("system")).unwrap();
        assert_eq!(kept["spec"], changed["spec"]);
        assert_eq!(kept["metadata"]["annotations"][ANNOTATION], "false");
        changed["metadata"]["generation"] = 1.into();
        assert_eq!(reconcile(&changed, &named("system")).unwrap()["spec"], named("system")["spec"]);
        let mut mandatory = named("catch-all");
        mandatory["metadata"]["annotations"][ANNOTATION] = "false".into();
        mandatory["spec"]["limited"]["borrowingLimitPercent"] = 5.into();
        let back = reconcile(&mandatory, &named("catch-all")).unwrap();
        assert_eq!(back["spec"], named("catch-all")["spec"]);
        assert_eq!(back["metadata"]["annotations"][ANNOTATION], "true");
    }
}
