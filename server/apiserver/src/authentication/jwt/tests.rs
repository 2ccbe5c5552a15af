//! Against an issuer of our own, over real TLS.

use super::config::{AuthenticationConfiguration, OidcFlags};
use super::*;
use crate::authentication::UserInfo;
use crate::authentication::expressions::{Program, Scope, Yields};
use crate::remote::testing::TestService;
use crate::tokens::jose::SigningKey;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kit::pki::PrivateKey;
use serde_json::{Value, json};

struct Idp {
    service: TestService,
    key: Mutex<SigningKey>,
}

fn ec() -> SigningKey {
    SigningKey::Ecdsa(PrivateKey::generate().unwrap())
}

impl Idp {
    async fn start() -> Arc<Self> {
        let service = TestService::start().await;
        let this = Arc::new(Self { service, key: Mutex::new(ec()) });
        this.publish("/.well-known/openid-configuration");
        let first = this.key.lock().clone();
        this.rotate(first);
        this
    }

    fn publish(&self, at: &str) {
        let url = &self.service.url;
        self.service.put(at, json!({"issuer": url, "jwks_uri": format!("{url}/keys")}));
    }

    /// The one key it signs with and publishes.
    fn rotate(&self, key: SigningKey) {
        let public = key.public();
        self.service.put("/keys", json!({"keys": [{"kty": "oct"}, public.key.to_jwk(&public.id)]}));
        *self.key.lock() = key;
    }

    fn sign(&self, claims: &Value) -> String {
        let key = self.key.lock();
        let public = key.public();
        let header = json!({"alg": public.key.algorithm(), "kid": public.id});
        let encode = |v: &Value| URL_SAFE_NO_PAD.encode(v.to_string());
        let signed = format!("{}.{}", encode(&header), encode(claims));
        let signature = key.sign(signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn claims(&self) -> Value {
        let exp = Utc::now().timestamp() + 600;
        json!({"iss": self.service.url, "aud": "kubernetes", "sub": "jane", "groups": ["dev", "ops"], "exp": exp,
               "jti": "one"})
    }

    fn token(&self, changes: Value) -> String {
        let mut claims = self.claims();
        for (key, value) in changes.as_object().unwrap() {
            match value {
                Value::Null => drop(claims.as_object_mut().unwrap().remove(key)),
                value => claims[key] = value.clone(),
            }
        }
        self.sign(&claims)
    }

    fn flags(&self) -> OidcFlags {
        OidcFlags {
            issuer_url: self.service.url.clone(),
            client_id: "kubernetes".into(),
            certificate_authority: self.service.authority.clone(),
            username_prefix: "oidc:".into(),
            groups_claim: "groups".into(),
            groups_prefix: "g:".into(),
            ..OidcFlags::default()
        }
    }
}

fn config(jwt: Vec<config::JwtConfig>) -> AuthenticationConfiguration {
    AuthenticationConfiguration { jwt, ..AuthenticationConfiguration::default() }
}

fn tokens(config: &AuthenticationConfiguration, compiler: Option<&dyn Compiler>) -> Arc<JwtTokens> {
    let tokens = Arc::new(JwtTokens::default());
    tokens.install(JwtTokens::build(config, &[], compiler).unwrap());
    tokens
}

async fn ask(tokens: &JwtTokens, token: &str) -> Result<Option<UserInfo>, String> {
    tokens.authenticate_token(token, &[]).await.map(|a| a.map(|a| a.user)).map_err(|e| e.0)
}

#[tokio::test]
async fn flags_map_claims_to_a_user() {
    let idp = Idp::start().await;
    let tokens = tokens(&config(vec![idp.flags().to_config()]), None);
    let user = ask(&tokens, &idp.token(json!({}))).await.unwrap().unwrap();
    assert_eq!(user.name, "oidc:jane");
    assert_eq!(user.groups, ["g:dev", "g:ops"]);
    assert_eq!(user.extra["authentication.kubernetes.io/credential-id"], ["JTI=one"]);
    let one = ask(&tokens, &idp.token(json!({"groups": "solo"}))).await.unwrap().unwrap();
    assert_eq!(one.groups, ["g:solo"]);
    // Several tokens, one fetch of each document.
    assert_eq!(idp.service.asked("/keys"), 1);
    assert_eq!(ask(&tokens, "not.a.token").await, Ok(None));
    assert_eq!(ask(&tokens, &idp.token(json!({"iss": "https://elsewhere"}))).await, Ok(None));
}

#[tokio::test]
async fn bad_tokens_say_why() {
    let idp = Idp::start().await;
    let mut flags = idp.flags();
    flags.required_claims.insert("hd".into(), "example.com".into());
    let tokens = tokens(&config(vec![flags.to_config()]), None);
    let good = json!({"hd": "example.com"});
    ask(&tokens, &idp.token(good.clone())).await.unwrap().unwrap();
    for (changes, wanted) in [
        (
            json!({"aud": "other"}),
            "oidc: verify token: oidc: expected audience \"kubernetes\" got [\"other\"]",
        ),
        (
            json!({"exp": 1}),
            "oidc: verify token: oidc: token is expired (Token Expiry: 1970-01-01T00:00:01Z)",
        ),
        (json!({"exp": null}), "oidc: token is expired"),
        (json!({"nbf": 32503680000i64}), "before the nbf (not before) time"),
        (json!({"sub": null}), "oidc: parse username claims \"sub\": claim not present"),
        (json!({"sub": 7}), "json: cannot unmarshal number into Go value of type string"),
        (json!({"groups": [7]}), "oidc: parse groups claim \"groups\""),
        (json!({"hd": null}), "oidc: required claim hd not present in ID token"),
        (json!({"hd": "evil.com"}), "Got = evil.com, want = example.com"),
    ] {
        let mut all = good.clone();
        all.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        let error = ask(&tokens, &idp.token(all)).await.unwrap_err();
        assert!(error.contains(wanted), "{changes}: {error}");
    }
    // Signed by nobody we know, by no algorithm at all, or tampered with.
    let token = idp.token(good);
    let parts: Vec<&str> = token.split('.').collect();
    let stranger = ec();
    let forged = stranger.sign(format!("{}.{}", parts[0], parts[1]).as_bytes()).unwrap();
    let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
    for bad in [
        format!("{}.{}.{}", parts[0], parts[1], URL_SAFE_NO_PAD.encode(forged)),
        format!("{none}.{}.", parts[1]),
    ] {
        assert!(ask(&tokens, &bad).await.unwrap_err().contains("oidc: verify token"), "{bad}");
    }
}

#[tokio::test]
async fn keys_rotate_under_a_running_server() {
    let idp = Idp::start().await;
    let tokens = tokens(&config(vec![idp.flags().to_config()]), None);
    let old = idp.token(json!({}));
    ask(&tokens, &old).await.unwrap().unwrap();
    idp.rotate(ec());
    ask(&tokens, &idp.token(json!({"sub": "new"}))).await.unwrap().unwrap();
    // The old key is gone with the fetch; what was not asked before is refused now.
    idp.rotate(SigningKey::from_pem(crate::tokens::jose::tests::RSA_PEM.as_bytes()).unwrap());
    let rsa = ask(&tokens, &idp.token(json!({"sub": "rsa"}))).await.unwrap().unwrap();
    assert_eq!(rsa.name, "oidc:rsa");
    assert_eq!(idp.service.asked("/keys"), 3);
}

#[tokio::test]
async fn several_issuers_and_a_discovery_url() {
    let (one, two) = (Idp::start().await, Idp::start().await);
    two.service.remove("/.well-known/openid-configuration");
    two.publish("/elsewhere/discovery");
    let mut second = two.flags().to_config();
    second.issuer.discovery_url = Some(format!("{}/elsewhere/discovery", two.service.url));
    second.claim_mappings.username.prefix = Some("two:".into());
    second.claim_mappings.uid.claim = "sub".into();
    second.issuer.audiences = vec!["a".into(), "kubernetes".into()];
    let tokens = tokens(&config(vec![one.flags().to_config(), second]), None);
    assert_eq!(ask(&tokens, &one.token(json!({}))).await.unwrap().unwrap().name, "oidc:jane");
    let user = ask(&tokens, &two.token(json!({}))).await.unwrap().unwrap();
    assert_eq!((user.name.as_str(), user.uid.as_str()), ("two:jane", "jane"));
    let error = ask(&tokens, &two.token(json!({"aud": ["x"]}))).await.unwrap_err();
    assert!(error.contains("oidc: expected audience in [\"a\", \"kubernetes\"] got [\"x\"]"), "{error}");
}

#[tokio::test]
async fn a_new_configuration_replaces_the_old_at_once() {
    let idp = Idp::start().await;
    let tokens = tokens(&config(vec![idp.flags().to_config()]), None);
    let token = idp.token(json!({}));
    ask(&tokens, &token).await.unwrap().unwrap();
    let mut changed = idp.flags().to_config();
    changed.claim_mappings.username.prefix = Some("new:".into());
    tokens.install(JwtTokens::build(&config(vec![changed]), &[], None).unwrap());
    assert_eq!(ask(&tokens, &token).await.unwrap().unwrap().name, "new:jane");
    tokens.install(Vec::new());
    assert_eq!(ask(&tokens, &token).await, Ok(None));
}

#[tokio::test]
async fn an_issuer_that_is_away_or_lies_authenticates_nobody() {
    let idp = Idp::start().await;
    idp.service.put(
        "/.well-known/openid-configuration",
        json!({"issuer": "https://other", "jwks_uri": "https://x"}),
    );
    let tokens = tokens(&config(vec![idp.flags().to_config()]), None);
    let token = idp.token(json!({}));
    assert_eq!(ask(&tokens, &token).await.unwrap_err(), "oidc: authenticator not initialized");
    // A server whose certificate we do not trust is away, too.
    let mut stranger = idp.flags();
    stranger.certificate_authority = kit::pki::Authority::generate("other").unwrap().certificate_pem().into();
    idp.publish("/.well-known/openid-configuration");
    let issuer = JwtIssuer::new(stranger.to_config(), vec![], None).unwrap();
    assert!(issuer.prepare().await.unwrap_err().contains("certificate"));
    ask(&tokens, &token).await.unwrap().unwrap();
}

#[tokio::test]
async fn groups_may_lie_elsewhere() {
    let idp = Idp::start().await;
    let tokens = tokens(&config(vec![idp.flags().to_config()]), None);
    let far = idp.token(json!({"groups": ["far"]}));
    idp.service.put_text("/groups", &far);
    let url = format!("{}/groups", idp.service.url);
    let names = json!({"groups": null, "_claim_names": {"groups": "src"},
                       "_claim_sources": {"src": {"endpoint": url, "access_token": "t"}}});
    let user = ask(&tokens, &idp.token(names)).await.unwrap().unwrap();
    assert_eq!(user.groups, ["g:far"]);
}

/// Understands `<variable>.<member> == '<text>'` and `<variable>.<member>`: enough to see that the seam is used.
struct Toy;

struct ToyProgram(String, Option<String>);

impl Program for ToyProgram {
    fn evaluate(&self, value: &Value) -> Result<Value, String> {
        let found = value.get(&self.0).cloned().ok_or_else(|| format!("no such key: {}", self.0))?;
        Ok(match &self.1 {
            Some(wanted) => json!(found == wanted.as_str()),
            None => found,
        })
    }
}

impl Compiler for Toy {
    fn compile(&self, text: &str, scope: Scope, _: Yields) -> Result<Arc<dyn Program>, String> {
        let variable = if scope == Scope::User { "user." } else { "claims." };
        let rest = text.strip_prefix(variable).ok_or("undeclared reference")?;
        let (member, wanted) = match rest.split_once(" == ") {
            Some((member, wanted)) => (member, Some(wanted.trim_matches('\'').to_owned())),
            None => (rest, None),
        };
        Ok(Arc::new(ToyProgram(member.to_owned(), wanted)))
    }
}

#[tokio::test]
async fn expressions_go_through_the_seam() {
    let idp = Idp::start().await;
    let mut jwt = idp.flags().to_config();
    jwt.claim_mappings.username =
        config::PrefixedClaim { expression: "claims.sub".into(), ..Default::default() };
    jwt.claim_mappings.extra.push(config::ExtraMapping {
        key: "example.com/tenant".into(),
        value_expression: "claims.tenant".into(),
    });
    jwt.claim_validation_rules.push(config::ClaimValidationRule {
        expression: "claims.hd == 'example.com'".into(),
        message: "wrong domain".into(),
        ..Default::default()
    });
    jwt.user_validation_rules.push(config::UserValidationRule {
        expression: "user.username == 'jane'".into(),
        message: String::new(),
    });
    let config = config(vec![jwt]);
    let refused = JwtTokens::build(&config, &[], None).err().unwrap();
    assert!(refused.contains("CEL expressions, which this server cannot evaluate"), "{refused}");
    let tokens = tokens(&config, Some(&Toy));
    let good = json!({"hd": "example.com", "tenant": ["a", "b"]});
    let user = ask(&tokens, &idp.token(good)).await.unwrap().unwrap();
    assert_eq!(
        (user.name.as_str(), &user.extra["example.com/tenant"]),
        ("jane", &vec!["a".into(), "b".into()])
    );
    let bad = idp.token(json!({"hd": "evil", "tenant": ""}));
    assert!(ask(&tokens, &bad).await.unwrap_err().ends_with("failed: wrong domain"));
    let other = idp.token(json!({"hd": "example.com", "tenant": "", "sub": "eve"}));
    assert!(ask(&tokens, &other).await.unwrap_err().contains("user info validation rule"));
}
