//! Which objects belong to a controller: matched by selector, claimed by controller reference.

use std::sync::Arc;

use client::objects::{controller_of, is_deleting, name, selector_matches, uid};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use kube::api::Api;
use kube::{Client, Resource};
use serde::de::DeserializeOwned;

/// What one owner does about one candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    Mine,
    Adopt,
    Release,
    NotMine,
}

/// The rules of upstream's controller reference manager.
pub fn judge(owner: &ObjectMeta, selector: &LabelSelector, object: &ObjectMeta) -> Claim {
    let matches = selector_matches(selector, object.labels.as_ref());
    match controller_of(object) {
        Some(r) if r.uid != uid(owner) => Claim::NotMine,
        Some(_) if matches => Claim::Mine,
        Some(_) if is_deleting(owner) => Claim::NotMine,
        Some(_) => Claim::Release,
        None if is_deleting(owner) || !matches || is_deleting(object) => Claim::NotMine,
        None => Claim::Adopt,
    }
}

/// Claims what `owner` should have of `candidates`: adopts orphans that match (after asking the server whether the owner
/// still lives), releases what matches no longer, returns what is the owner's as the cache knows it.
pub async fn claim<O, K>(
    client: &Client,
    owner: &O,
    reference: &OwnerReference,
    selector: &LabelSelector,
    candidates: impl IntoIterator<Item = Arc<K>>,
) -> Result<Vec<Arc<K>>, kube::Error>
where
    O: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    let namespace = client::objects::namespace(owner.meta());
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let mut owner_lives = None;
    let mut mine = Vec::new();
    for object in candidates {
        match judge(owner.meta(), selector, object.meta()) {
            Claim::Mine => mine.push(object),
            Claim::NotMine => {}
            Claim::Release => {
                let patch = client::patch::release(uid(owner.meta()), uid(object.meta()));
                match client::patch::strategic(&api, name(object.meta()), &patch).await {
                    Ok(_) => {}
                    // Gone, or replaced by another of the name.
                    Err(e)
                        if client::errors::is_not_found(&e)
                            || matches!(client::errors::code(&e), 409 | 422) => {}
                    Err(e) => return Err(e),
                }
            }
            Claim::Adopt => {
                let lives = match owner_lives {
                    Some(lives) => lives,
                    None => {
                        let owners: Api<O> = Api::namespaced(client.clone(), namespace);
                        let fresh = client::errors::optional(owners.get(name(owner.meta())).await)?;
                        let lives = fresh
                            .is_some_and(|o| uid(o.meta()) == uid(owner.meta()) && !is_deleting(o.meta()));
                        *owner_lives.insert(lives)
                    }
                };
                if !lives {
                    continue;
                }
                let patch = client::patch::adopt(reference, uid(object.meta()));
                match client::patch::strategic(&api, name(object.meta()), &patch).await {
                    Ok(_) => mine.push(object),
                    Err(e) if client::errors::is_not_found(&e) || client::errors::code(&e) == 409 => {}
                    Err(e) => return Err(e),
                }
            }
        }
    }
    Ok(mine)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::now;

    fn meta(uid: &str, controller: Option<&str>, label: &str) -> ObjectMeta {
        ObjectMeta {
            uid: Some(uid.into()),
            labels: Some([("app".to_owned(), label.to_owned())].into()),
            owner_references: controller.map(|c| {
                vec![OwnerReference { uid: c.into(), controller: Some(true), ..Default::default() }]
            }),
            ..Default::default()
        }
    }

    #[test]
    fn the_table_of_claims() {
        let selector = LabelSelector {
            match_labels: Some([("app".to_owned(), "x".to_owned())].into()),
            ..Default::default()
        };
        let owner = meta("o", None, "");
        let mut dying = owner.clone();
        dying.deletion_timestamp = Some(now());
        let check = |owner: &ObjectMeta, object: ObjectMeta| judge(owner, &selector, &object);
        assert_eq!(check(&owner, meta("p", Some("o"), "x")), Claim::Mine);
        assert_eq!(check(&owner, meta("p", Some("o"), "y")), Claim::Release);
        assert_eq!(check(&dying, meta("p", Some("o"), "y")), Claim::NotMine);
        assert_eq!(check(&owner, meta("p", Some("other"), "x")), Claim::NotMine);
        assert_eq!(check(&owner, meta("p", None, "x")), Claim::Adopt);
        assert_eq!(check(&owner, meta("p", None, "y")), Claim::NotMine);
        assert_eq!(check(&dying, meta("p", None, "x")), Claim::NotMine);
        let mut leaving = meta("p", None, "x");
        leaving.deletion_timestamp = Some(now());
        assert_eq!(check(&owner, leaving), Claim::NotMine);
    }
}
