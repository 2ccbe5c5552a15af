//! Assignability with type variables.

use crate::types::Type;
use std::collections::HashMap;

#[derive(Default)]
pub struct Inference {
    bound: Vec<Option<Type>>,
}

impl Inference {
    pub fn fresh(&mut self) -> Type {
        self.bound.push(None);
        Type::Var(self.bound.len() as u32 - 1)
    }

    /// The type with a declaration's parameters replaced by free variables.
    pub fn instantiate(&mut self, ty: &Type, params: &mut HashMap<char, Type>) -> Type {
        match ty {
            Type::Param(name) => {
                if let Some(known) = params.get(name) {
                    return known.clone();
                }
                let fresh = self.fresh();
                params.insert(*name, fresh.clone());
                fresh
            }
            Type::List(item) => Type::list(self.instantiate(item, params)),
            Type::Map(key, value) => {
                Type::map(self.instantiate(key, params), self.instantiate(value, params))
            }
            Type::Optional(of) => Type::optional(self.instantiate(of, params)),
            other => other.clone(),
        }
    }

    /// The type with what is known of its variables; `free_to_dyn`: the others become dyn.
    pub fn resolve(&self, ty: &Type, free_to_dyn: bool) -> Type {
        match ty {
            Type::Var(n) => match self.bound.get(*n as usize).and_then(Option::as_ref) {
                Some(known) => self.resolve(known, free_to_dyn),
                None if free_to_dyn => Type::Dyn,
                None => ty.clone(),
            },
            Type::List(item) => Type::list(self.resolve(item, free_to_dyn)),
            Type::Map(key, value) => {
                Type::map(self.resolve(key, free_to_dyn), self.resolve(value, free_to_dyn))
            }
            Type::Optional(of) => Type::optional(self.resolve(of, free_to_dyn)),
            other => other.clone(),
        }
    }

    /// Whether a `found` may stand where a `wanted` is; binds variables only if so.
    pub fn assign(&mut self, wanted: &Type, found: &Type) -> bool {
        self.assign_all(std::slice::from_ref(wanted), std::slice::from_ref(found))
    }

    pub fn assign_all(&mut self, wanted: &[Type], found: &[Type]) -> bool {
        let before = self.bound.clone();
        if wanted.len() == found.len() && wanted.iter().zip(found).all(|(w, f)| self.unify(w, f)) {
            return true;
        }
        self.bound = before;
        false
    }

    fn shallow(&self, ty: &Type) -> Type {
        match ty {
            Type::Var(n) => match self.bound.get(*n as usize).and_then(Option::as_ref) {
                Some(known) => self.shallow(known),
                None => ty.clone(),
            },
            other => other.clone(),
        }
    }

    fn occurs(&self, var: u32, ty: &Type) -> bool {
        match self.shallow(ty) {
            Type::Var(n) => n == var,
            Type::List(a) | Type::Optional(a) => self.occurs(var, &a),
            Type::Map(a, b) => self.occurs(var, &a) || self.occurs(var, &b),
            _ => false,
        }
    }

    fn unify(&mut self, wanted: &Type, found: &Type) -> bool {
        if let (Type::Var(n), known) = (wanted, self.shallow(wanted))
            && !matches!(known, Type::Var(_))
        {
            // A variable that is bound takes the more general of the two.
            if !self.unify(&known, found) {
                return false;
            }
            let general = self.general(&known, found);
            self.bound[*n as usize] = Some(general);
            return true;
        }
        let (a, b) = (self.shallow(wanted), self.shallow(found));
        match (&a, &b) {
            (Type::Var(x), Type::Var(y)) if x == y => true,
            (Type::Var(x), other) | (other, Type::Var(x)) => {
                if self.occurs(*x, other) {
                    return false;
                }
                self.bound[*x as usize] = Some(other.clone());
                true
            }
            (Type::Dyn | Type::Any, _) | (_, Type::Dyn | Type::Any) => true,
            (Type::List(x), Type::List(y)) | (Type::Optional(x), Type::Optional(y)) => self.unify(x, y),
            (Type::Map(k, v), Type::Map(l, w)) => self.unify(k, l) && self.unify(v, w),
            (Type::Null, other) | (other, Type::Null) => nullable(other),
            (x, y) => x == y,
        }
    }

    /// The more general of two types of which one fits the other.
    pub fn general(&self, a: &Type, b: &Type) -> Type {
        let (x, y) = (self.resolve(a, false), self.resolve(b, false));
        match (&x, &y) {
            (Type::Any, _) => x,
            (_, Type::Any) => y,
            (Type::Dyn, _) | (_, Type::Dyn) => Type::Dyn,
            (Type::Null, _) => y,
            (Type::List(p), Type::List(q)) => Type::list(self.general(p, q)),
            (Type::Optional(p), Type::Optional(q)) => Type::optional(self.general(p, q)),
            (Type::Map(k, v), Type::Map(l, w)) => Type::map(self.general(k, l), self.general(v, w)),
            (Type::Var(_), _) => y,
            _ => x,
        }
    }
}

fn nullable(ty: &Type) -> bool {
    matches!(
        ty,
        Type::Null | Type::Timestamp | Type::Duration | Type::Object(_) | Type::Opaque(_) | Type::Optional(_)
    )
}
