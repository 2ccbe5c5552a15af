//! What an `AuthenticationConfiguration` must be, in upstream's words and at upstream's field paths.

use super::config::{ClaimMappings, IssuerConfig, JwtConfig, PrefixedClaim};
use machinery::field::{FieldErrors, Path};
use std::collections::HashSet;

impl JwtConfig {
    pub fn validate(&self, at: &Path<'_>, disallowed: &[String], errors: &mut FieldErrors) {
        self.issuer.validate(&at.child("issuer"), disallowed, errors);
        self.validate_rules(&at.child("claimValidationRules"), errors);
        self.claim_mappings.validate(&at.child("claimMappings"), errors);
        self.validate_email(&at.child("claimMappings.username.expression"), errors);
        let rules = at.child("userValidationRules");
        let mut seen = HashSet::new();
        for (i, rule) in self.user_validation_rules.iter().enumerate() {
            let rule_at = rules.index(i);
            let at = rule_at.child("expression");
            if rule.expression.is_empty() {
                errors.required(&at, "");
            } else if !seen.insert(&rule.expression) {
                errors.duplicate(&at, rule.expression.as_str());
            }
        }
    }

    /// A user named by an address that nobody verified would be anybody.
    fn validate_email(&self, at: &Path<'_>, errors: &mut FieldErrors) {
        let name = &self.claim_mappings.username.expression;
        let mut all = self.claim_mappings.extra.iter().map(|e| &e.value_expression);
        let mut rules = self.claim_validation_rules.iter().map(|r| &r.expression);
        let verified = |text: &String| reads_claim(text, "email_verified");
        if reads_claim(name, "email") && !verified(name) && !all.any(verified) && !rules.any(verified) {
            errors.invalid(
                at,
                name.as_str(),
                "claims.email_verified must be used in claimMappings.username.expression or \
                 claimMappings.extra[*].valueExpression or claimValidationRules[*].expression when claims.email is used \
                 in claimMappings.username.expression",
            );
        }
    }

    fn validate_rules(&self, rules: &Path<'_>, errors: &mut FieldErrors) {
        let (mut claims, mut expressions) = (HashSet::new(), HashSet::new());
        for (i, rule) in self.claim_validation_rules.iter().enumerate() {
            let at = rules.index(i);
            match (rule.claim.is_empty(), rule.expression.is_empty()) {
                (false, false) => {
                    errors.invalid(&at, rule.claim.as_str(), "claim and expression can't both be set");
                }
                (true, true) => errors.required(&at, "claim or expression is required"),
                (false, true) => {
                    if !rule.message.is_empty() {
                        errors.invalid(
                            &at.child("message"),
                            rule.message.as_str(),
                            "may not be specified when claim is set",
                        );
                    }
                    if !claims.insert(&rule.claim) {
                        errors.duplicate(&at.child("claim"), rule.claim.as_str());
                    }
                }
                (true, false) => {
                    if !rule.required_value.is_empty() {
                        errors.invalid(
                            &at.child("requiredValue"),
                            rule.required_value.as_str(),
                            "may not be specified when expression is set",
                        );
                    }
                    if !expressions.insert(&rule.expression) {
                        errors.duplicate(&at.child("expression"), rule.expression.as_str());
                    }
                }
            }
        }
    }
}

impl IssuerConfig {
    fn validate(&self, at: &Path<'_>, disallowed: &[String], errors: &mut FieldErrors) {
        let url = at.child("url");
        if self.url.is_empty() {
            errors.required(&url, "");
        } else {
            validate_url(&self.url, disallowed, &url, errors);
        }
        if let Some(discovery) = self.discovery_url.as_deref().filter(|d| !d.is_empty()) {
            let at = at.child("discoveryURL");
            if !self.url.is_empty() && self.url.trim_end_matches('/') == discovery.trim_end_matches('/') {
                errors.invalid(&at, discovery, "discoveryURL must be different from URL");
            }
            validate_url(discovery, &[], &at, errors);
        }
        self.validate_audiences(at, errors);
        if !self.certificate_authority.is_empty()
            && kit::pki::pem::certificates(self.certificate_authority.as_bytes()).is_err()
        {
            errors.invalid(
                &at.child("certificateAuthority"),
                "<omitted>",
                "data does not contain any valid RSA or ECDSA certificates",
            );
        }
        if !matches!(self.egress_selector_type.as_str(), "" | "controlplane" | "cluster") {
            errors.invalid(
                &at.child("egressSelectorType"),
                self.egress_selector_type.as_str(),
                "egress selector must be either controlplane or cluster",
            );
        }
    }

    fn validate_audiences(&self, at: &Path<'_>, errors: &mut FieldErrors) {
        let audiences = at.child("audiences");
        if self.audiences.is_empty() {
            errors.required(&audiences, format!("at least one {audiences} is required"));
            return;
        }
        let mut seen = HashSet::new();
        for (i, audience) in self.audiences.iter().enumerate() {
            if audience.is_empty() {
                errors.required(&audiences.index(i), "");
            }
            if !seen.insert(audience) {
                errors.duplicate(&audiences.index(i), audience.as_str());
            }
        }
        let policy = self.audience_match_policy.as_str();
        let at = at.child("audienceMatchPolicy");
        if self.audiences.len() > 1 && policy != "MatchAny" {
            errors.invalid(&at, policy, "audienceMatchPolicy must be MatchAny for multiple audiences");
        } else if !matches!(policy, "" | "MatchAny") {
            errors.invalid(&at, policy, "audienceMatchPolicy must be empty or MatchAny for single audience");
        }
    }
}

/// Whether an expression selects this member of `claims` (`claims.x`, `claims.?x`).
fn reads_claim(expression: &str, claim: &str) -> bool {
    expression.match_indices("claims.").any(|(at, found)| {
        let rest = expression[at + found.len()..].trim_start_matches('?');
        rest.strip_prefix(claim)
            .is_some_and(|after| !after.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_'))
    })
}

fn validate_url(url: &str, disallowed: &[String], at: &Path<'_>, errors: &mut FieldErrors) {
    if disallowed.iter().any(|d| d == url) {
        let mut all: Vec<&str> = disallowed.iter().map(String::as_str).collect();
        all.sort_unstable();
        errors.invalid(at, url, format!("URL must not overlap with disallowed issuers: [{}]", all.join(" ")));
    }
    let (rest, fragment) = url.split_once('#').unwrap_or((url, ""));
    let Ok(parsed) = rest.parse::<http::Uri>() else {
        errors.invalid(at, url, format!("parse {url:?}: invalid URI for request"));
        return;
    };
    if parsed.scheme_str() != Some("https") {
        errors.invalid(at, url, "URL scheme must be https");
    }
    if parsed.authority().is_some_and(|a| a.as_str().contains('@')) {
        errors.invalid(at, url, "URL must not contain a username or password");
    }
    if parsed.query().is_some_and(|q| !q.is_empty()) {
        errors.invalid(at, url, "URL must not contain a query");
    }
    if !fragment.is_empty() {
        errors.invalid(at, url, "URL must not contain a fragment");
    }
}

impl ClaimMappings {
    fn validate(&self, at: &Path<'_>, errors: &mut FieldErrors) {
        self.username.validate(&at.child("username"), true, errors);
        self.groups.validate(&at.child("groups"), false, errors);
        if !self.uid.claim.is_empty() && !self.uid.expression.is_empty() {
            errors.invalid(&at.child("uid"), "", "claim and expression can't both be set");
        }
        let mut seen = HashSet::new();
        for (i, mapping) in self.extra.iter().enumerate() {
            let list = at.child("extra");
            let at = list.index(i);
            validate_extra_key(&mapping.key, &at.child("key"), errors);
            if !mapping.key.is_empty() && !seen.insert(&mapping.key) {
                errors.duplicate(&at.child("key"), mapping.key.as_str());
            }
            if mapping.value_expression.is_empty() {
                errors.required(&at.child("valueExpression"), "valueExpression is required");
            }
        }
    }
}

fn validate_extra_key(key: &str, at: &Path<'_>, errors: &mut FieldErrors) {
    if key.is_empty() {
        errors.required(at, "");
        return;
    }
    match key.split_once('/') {
        Some((domain, path))
            if !path.is_empty() && machinery::names::dns1123_subdomain(domain).is_empty() =>
        {
            if key != key.to_lowercase() {
                errors.invalid(at, key, "must be lowercase");
            }
            for reserved in ["k8s.io", "kubernetes.io"] {
                if domain == reserved || domain.ends_with(&format!(".{reserved}")) {
                    errors.invalid(
                        at,
                        key,
                        "k8s.io, kubernetes.io and their subdomains are reserved for Kubernetes use",
                    );
                }
            }
        }
        _ => errors.invalid(at, key, "must be a domain-prefixed path (such as \"acme.io/foo\")"),
    }
}

impl PrefixedClaim {
    fn validate(&self, at: &Path<'_>, required: bool, errors: &mut FieldErrors) {
        match (self.claim.is_empty(), self.expression.is_empty()) {
            (false, false) => errors.invalid(at, "", "claim and expression can't both be set"),
            (true, true) if required => errors.required(at, "claim or expression is required"),
            (true, true) => {}
            (true, false) => {
                if let Some(prefix) = &self.prefix {
                    errors.invalid(
                        &at.child("prefix"),
                        prefix.as_str(),
                        "may not be specified when expression is set",
                    );
                }
            }
            (false, true) if self.prefix.is_none() => errors.required(
                &at.child("prefix"),
                "prefix is required when claim is set. It can be set to an empty string to disable prefixing",
            ),
            _ => {}
        }
    }
}
