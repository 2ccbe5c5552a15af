//! TokenReview and SelfSubjectReview: authentication as an answer.

use super::{BearerTokens, UserInfo, authenticated};
use crate::reader::{strings, text};
use chrono::{SecondsFormat, Utc};
use serde_json::{Value, json};

/// Answers a TokenReview. `Err` is the message of a 400.
pub async fn token_review(tokens: &BearerTokens, object: &Value) -> Result<Value, String> {
    let token = text(object, "/spec/token");
    if token.is_empty() {
        return Err("token is required for TokenReview in authentication".into());
    }
    let mut audiences = strings(object, "/spec/audiences");
    if audiences.is_empty() {
        audiences = tokens.audiences().to_vec();
    }
    let status = match tokens.check(token, &audiences).await {
        Ok(Some(answer)) => {
            // Tokens that know no audiences are this server's alone.
            let granted = if answer.audiences.is_empty() {
                audiences.into_iter().filter(|a| tokens.audiences().contains(a)).collect()
            } else {
                answer.audiences
            };
            if granted.is_empty() {
                json!({"user": {}, "error": "[invalid bearer token, the token is not valid for the audiences]"})
            } else {
                json!({"authenticated": true, "user": authenticated(answer.user).to_json(), "audiences": granted})
            }
        }
        Ok(None) => json!({"user": {}, "error": "invalid bearer token"}),
        Err(error) => json!({"user": {}, "error": error.to_string()}),
    };
    let mut out = object.clone();
    out["status"] = status;
    Ok(out)
}

/// Answers a SelfSubjectReview.
pub fn self_subject_review(user: &UserInfo, object: &Value) -> Value {
    let mut out = object.clone();
    if !out["metadata"].is_object() {
        out["metadata"] = json!({});
    }
    out["metadata"]["creationTimestamp"] = json!(Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true));
    out["status"] = json!({"userInfo": user.to_json()});
    out
}

#[cfg(test)]
mod tests {
    use super::super::{StaticToken, StaticTokens};
    use super::*;
    use std::sync::Arc;

    fn tokens() -> BearerTokens {
        let user = UserInfo::new("jane", &["dev"]);
        let known = StaticTokens::new([StaticToken { token: "secret".into(), user }]);
        BearerTokens::new(vec![Arc::new(known)], vec!["https://me".into()])
    }

    #[tokio::test]
    async fn reviews_say_who_or_why_not() {
        let ask = async |spec: Value| {
            token_review(&tokens(), &json!({"spec": spec})).await.unwrap()["status"].clone()
        };
        let good = ask(json!({"token": "secret"})).await;
        assert_eq!(good["authenticated"], true);
        assert_eq!(good["user"], json!({"username": "jane", "groups": ["dev", "system:authenticated"]}));
        assert_eq!(good["audiences"], json!(["https://me"]));
        let bad = ask(json!({"token": "x"})).await;
        assert_eq!((bad.get("authenticated"), &bad["error"]), (None, &json!("invalid bearer token")));
        let other = ask(json!({"token": "secret", "audiences": ["vault"]})).await;
        assert_eq!(other.get("authenticated"), None);
        assert!(token_review(&tokens(), &json!({"spec": {}})).await.is_err());
    }

    #[test]
    fn a_self_review_repeats_the_user() {
        let answer = self_subject_review(&UserInfo::new("jane", &["dev"]), &json!({}));
        assert_eq!(answer["status"]["userInfo"]["username"], "jane");
    }
}
