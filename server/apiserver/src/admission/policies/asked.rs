//! The authorizer, for expressions: questions are gathered while an expression runs, answered after, and the
//! expression runs again.

use super::Request;
use crate::authentication::UserInfo;
use crate::authorization::{Attributes, Authorizer, Decision};
use cel::library::authz::{self, Question};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

/// One request's questions and answers.
pub(in super::super) struct Asked {
    user: UserInfo,
    authorizer: Arc<dyn Authorizer>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    known: HashMap<Question, authz::Decision>,
    wanted: Option<Question>,
}

impl authz::Authorizer for Asked {
    fn decide(&self, question: &Question) -> Option<authz::Decision> {
        let mut state = self.state.lock();
        let found = state.known.get(question).cloned();
        if found.is_none() {
            state.wanted = Some(question.clone());
        }
        found
    }
}

impl Asked {
    pub fn new(authorizer: Arc<dyn Authorizer>, user: &UserInfo) -> Arc<Self> {
        Arc::new(Self { user: user.clone(), authorizer, state: Mutex::default() })
    }

    /// Answers what the last run wanted to know; false if it wanted nothing.
    pub async fn answer(&self) -> bool {
        let Some(question) = self.state.lock().wanted.take() else { return false };
        let user = match &question.service_account {
            Some((namespace, name)) => UserInfo::service_account(namespace, name, ""),
            None => self.user.clone(),
        };
        let attributes = Attributes {
            user,
            verb: question.verb.clone(),
            namespace: question.namespace.clone(),
            api_group: question.group.clone(),
            api_version: if question.path.is_some() { String::new() } else { "*".into() },
            resource: question.resource.clone(),
            subresource: question.subresource.clone(),
            name: question.name.clone(),
            resource_request: question.path.is_none(),
            path: question.path.clone().unwrap_or_default(),
            field_selector: question.field_selector.clone(),
            label_selector: question.label_selector.clone(),
        };
        let decision = match self.authorizer.authorize(&attributes).await {
            Decision::Allow { reason } => authz::Decision { allowed: true, reason, error: None },
            Decision::Deny { reason } | Decision::NoOpinion { reason } => {
                authz::Decision { allowed: false, reason, error: None }
            }
            Decision::Failed { error, .. } => {
                authz::Decision { allowed: false, reason: String::new(), error: Some(error) }
            }
        };
        self.state.lock().known.insert(question, decision);
        true
    }
}

/// The resource a request is about, as `authorizer.requestResource` begins.
pub(in super::super) fn question(r: &Request<'_>) -> Question {
    Question {
        group: r.group.to_owned(),
        resource: r.resource.to_owned(),
        subresource: r.subresource.to_owned(),
        namespace: r.namespace.to_owned(),
        name: r.name.to_owned(),
        ..Question::default()
    }
}
