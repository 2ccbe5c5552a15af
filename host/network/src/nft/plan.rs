//! The difference of two tables as ordered steps.

use super::{Base, Chain, Datum, Set, Table};
use std::collections::BTreeMap;

/// One step of a transaction; steps refer to the new table for what they add.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Makes the table anew, dropping whatever an earlier run left in it.
    ResetTable,
    AddChain(String, Option<Base>),
    AddSet(String),
    FlushChain(String),
    DeleteElements(String, Vec<Vec<u8>>),
    AddElements(String, Vec<(Vec<u8>, Datum)>),
    AddRules(String),
    DeleteSet(String),
    DeleteChain(String),
}

/// Steps from `old` (what the kernel holds; `None`: unknown) to `new`. Empty when there is nothing to do.
///
/// References never dangle on the way: chains and sets come before what names them, and go after it.
pub fn transaction(old: Option<&Table>, new: &Table) -> Vec<Step> {
    let empty = Table { name: new.name.clone(), ..Table::default() };
    let mut steps = Vec::new();
    let old = match old {
        Some(old) => old,
        None => {
            steps.push(Step::ResetTable);
            &empty
        }
    };
    let chain_kept =
        |name: &str| old.chains.get(name).filter(|c| new.chains.get(name).is_some_and(|n| n.base == c.base));
    let set_kept =
        |name: &str| old.sets.get(name).filter(|s| new.sets.get(name).is_some_and(|n| same_form(s, n)));

    for (name, chain) in &old.chains {
        if new.chains.get(name) != Some(chain) {
            steps.push(Step::FlushChain(name.clone()));
        }
    }
    for (name, set) in &old.sets {
        let Some(next) = set_kept(name).and(new.sets.get(name)) else { continue };
        let gone: Vec<_> = set
            .elements
            .iter()
            .filter(|(k, v)| next.elements.get(*k) != Some(v))
            .map(|(k, _)| k.clone())
            .collect();
        if !gone.is_empty() {
            steps.push(Step::DeleteElements(name.clone(), gone));
        }
    }
    for name in old.sets.keys() {
        if set_kept(name).is_none() {
            steps.push(Step::DeleteSet(name.clone()));
        }
    }
    for name in old.chains.keys() {
        if chain_kept(name).is_none() {
            steps.push(Step::DeleteChain(name.clone()));
        }
    }
    for (name, chain) in &new.chains {
        if chain_kept(name).is_none() {
            steps.push(Step::AddChain(name.clone(), chain.base));
        }
    }
    for name in new.sets.keys() {
        if set_kept(name).is_none() {
            steps.push(Step::AddSet(name.clone()));
        }
    }
    let nothing = BTreeMap::new();
    for (name, set) in &new.sets {
        let before = set_kept(name).map_or(&nothing, |s| &s.elements);
        let added: Vec<_> = set
            .elements
            .iter()
            .filter(|(k, v)| before.get(*k) != Some(v))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        if !added.is_empty() {
            steps.push(Step::AddElements(name.clone(), added));
        }
    }
    for (name, chain) in &new.chains {
        let before: Option<&Chain> = chain_kept(name);
        if before.map_or(!chain.rules.is_empty(), |b| b.rules != chain.rules) {
            steps.push(Step::AddRules(name.clone()));
        }
    }
    steps
}

fn same_form(a: &Set, b: &Set) -> bool {
    (a.key_len, a.maps_to, a.dynamic_timeout_ms) == (b.key_len, b.maps_to, b.dynamic_timeout_ms)
}

#[cfg(test)]
mod tests {
    use super::super::{Expr, MapsTo, Verdict};
    use super::*;

    fn table(chains: &[(&str, usize)], elements: &[u8]) -> Table {
        let mut t = Table { name: "t".into(), ..Table::default() };
        for (name, rules) in chains {
            let rules = vec![vec![Expr::Verdict(Verdict::Accept)]; *rules];
            t.chains.insert((*name).into(), Chain { base: None, rules });
        }
        let elements = elements.iter().map(|e| (vec![*e, 0, 0, 0], Datum::None)).collect();
        t.sets.insert(
            "s".into(),
            Set { key_len: 4, key_type: 4, maps_to: MapsTo::Nothing, dynamic_timeout_ms: None, elements },
        );
        t
    }

    #[test]
    fn equal_tables_need_no_steps() {
        let t = table(&[("a", 1)], &[1]);
        assert!(transaction(Some(&t), &t).is_empty());
    }

    #[test]
    fn one_element_is_one_step() {
        let (old, new) = (table(&[("a", 1)], &[1, 2]), table(&[("a", 1)], &[1, 2, 3]));
        assert_eq!(
            transaction(Some(&old), &new),
            [Step::AddElements("s".into(), vec![(vec![3, 0, 0, 0], Datum::None)])]
        );
    }

    #[test]
    fn a_chain_that_goes_is_emptied_first_and_deleted_before_new_ones_come() {
        let (old, new) = (table(&[("a", 1)], &[]), table(&[("b", 1)], &[]));
        assert_eq!(
            transaction(Some(&old), &new),
            [
                Step::FlushChain("a".into()),
                Step::DeleteChain("a".into()),
                Step::AddChain("b".into(), None),
                Step::AddRules("b".into()),
            ]
        );
    }

    #[test]
    fn an_unknown_start_resets() {
        let new = table(&[("a", 0)], &[1]);
        assert_eq!(transaction(None, &new)[0], Step::ResetTable);
    }
}
