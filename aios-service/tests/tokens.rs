//! Bearer tokens, and attacks with them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aios_core::{
    clock::{Clock, VirtualClock},
    event::Timestamp,
};
use aios_service::{
    auth::{
        ApiKey, ApiKeyHash, ApiKeys, AuthError, FileKeys, JwtIssuer, JwtTokens, KeySetDocument,
        KeySource, Permissions, StaticKeys,
    },
    http::{ApiOptions, RateLimit},
};
use axum::http::{HeaderValue, Method};
use base64::{Engine, engine::general_purpose::URL_SAFE};
use ring::{hmac, signature};
use serde_json::{Value, json};

use crate::{
    signer::{AUDIENCE, ISSUER, Signer, claims, encode, keys, seconds},
    support::{Answer, Service, request},
};

fn changed(mut claims: Value, field: &str, value: Value) -> Value {
    claims[field] = value;
    claims
}

async fn service(clock: &VirtualClock, issuers: impl IntoIterator<Item = JwtIssuer>) -> Service {
    let options = ApiOptions::new()
        .with_authenticator(JwtTokens::new(issuers))
        .with_clock(Arc::new(clock.clone()));
    Service::with(options).await
}

async fn ask(service: &Service, path: &str, token: &str) -> Answer {
    let mut get = request(Method::GET, path, None);
    let value = HeaderValue::from_str(&format!("Bearer {token}")).unwrap();
    get.headers_mut().insert("authorization", value);
    service.send(get).await
}

#[tokio::test]
async fn should_accept_a_token_of_every_algorithm() {
    let clock = VirtualClock::new(Timestamp::now());
    let signers = [
        ("RS256", Signer::rsa(&signature::RSA_PKCS1_SHA256)),
        ("RS384", Signer::rsa(&signature::RSA_PKCS1_SHA384)),
        ("RS512", Signer::rsa(&signature::RSA_PKCS1_SHA512)),
        ("PS256", Signer::rsa(&signature::RSA_PSS_SHA256)),
        ("PS384", Signer::rsa(&signature::RSA_PSS_SHA384)),
        ("PS512", Signer::rsa(&signature::RSA_PSS_SHA512)),
        ("ES256", Signer::p256()),
        ("EdDSA", Signer::ed25519()),
    ];
    let set: Vec<_> = signers.iter().map(|(alg, signer)| signer.jwk(alg, alg)).collect();
    let issuer = JwtIssuer::new(ISSUER, AUDIENCE, StaticKeys::new(keys(&set)));
    let service = service(&clock, [issuer]).await;
    for (algorithm, signer) in &signers {
        let header = json!({ "alg": algorithm, "kid": algorithm, "typ": "at+jwt" });
        let me = ask(&service, "/me", &signer.token(&header, &claims(&clock))).await;
        assert_eq!(
            (me.status.as_u16(), &me.body["data"]["id"]),
            (200, &json!("ada")),
            "{algorithm}"
        );
        assert_eq!(me.attributes()["permissions"], json!(["runs:read"]));
        for other in ["RS256", "PS256", "ES256", "EdDSA"].iter().filter(|it| *it != algorithm) {
            let header = json!({ "alg": other, "kid": algorithm });
            let confused = ask(&service, "/me", &signer.token(&header, &claims(&clock))).await;
            assert_eq!(confused.fault(), (401, "UNAUTHENTICATED"), "{algorithm} as {other}");
        }
    }
}

#[tokio::test]
async fn should_refuse_forged_tokens() {
    let clock = VirtualClock::new(Timestamp::now());
    let signer = Signer::rsa(&signature::RSA_PKCS1_SHA256);
    let set =
        keys(&[signer.jwk("k1", "RS256"), json!({ "kty": "oct", "kid": "k2", "k": "c2VjcmV0" })]);
    let issuer = JwtIssuer::new(ISSUER, AUDIENCE, StaticKeys::new(set));
    let service = service(&clock, [issuer]).await;
    let (header, claims) = (json!({ "alg": "RS256", "kid": "k1" }), claims(&clock));
    let good = signer.token(&header, &claims);
    assert_eq!(ask(&service, "/me", &good).await.status, 200);

    let unsigned =
        |header: &Value| format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
    let with_secret = |secret: &[u8], id: &str| {
        let message = unsigned(&json!({ "alg": "HS256", "kid": id }));
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        format!("{message}.{}", encode(hmac::sign(&key, message.as_bytes())))
    };
    let Signer::Rsa(pair, _) = &signer else { panic!("an RSA key") };
    let (message, signature) = good.rsplit_once('.').unwrap();
    let other = changed(claims.clone(), "scope", json!("*"));
    let swapped =
        format!("{}.{}.{signature}", encode(header.to_string()), encode(other.to_string()));
    for (attack, token) in [
        ("no algorithm", format!("{}.", unsigned(&json!({ "alg": "none", "kid": "k1" })))),
        ("other case", format!("{}.", unsigned(&json!({ "alg": "NoNe", "kid": "k1" })))),
        ("no signature", format!("{message}.")),
        ("public key as secret", with_secret(pair.public().as_ref(), "k1")),
        (
            "modulus as secret",
            with_secret(signer.jwk("k1", "RS256")["n"].as_str().unwrap().as_bytes(), "k1"),
        ),
        ("shared secret", with_secret(b"secret", "k2")),
        ("truncated", format!("{message}.{}", &signature[..signature.len() - 4])),
        ("other claims", swapped),
        ("two parts", message.to_owned()),
        ("four parts", format!("{good}.x")),
        ("not base64", format!("{message}.!!")),
        ("another key", Signer::p256().token(&header, &claims)),
        ("long", format!("{good}{}", "x".repeat(20_000))),
        ("empty", String::new()),
    ] {
        assert_eq!(
            ask(&service, "/me", &token).await.fault(),
            (401, "UNAUTHENTICATED"),
            "{attack}"
        );
    }
}

#[tokio::test]
async fn should_refuse_headers_that_ask_for_something_else() {
    let clock = VirtualClock::new(Timestamp::now());
    let signer = Signer::rsa(&signature::RSA_PKCS1_SHA256);
    let issuer =
        JwtIssuer::new(ISSUER, AUDIENCE, StaticKeys::new(keys(&[signer.jwk("k1", "RS256")])));
    let service = service(&clock, [issuer]).await;
    let (header, claims) = (json!({ "alg": "RS256", "kid": "k1" }), claims(&clock));
    for (attack, token) in [
        (
            "critical extension",
            signer.token(&changed(header.clone(), "crit", json!(["b64"])), &claims),
        ),
        (
            "another type",
            signer.token(&changed(header.clone(), "typ", json!("secevent+jwt")), &claims),
        ),
        ("no key named", signer.token(&json!({ "alg": "ES256" }), &claims)),
        (
            "own key in the header",
            signer.token(
                &json!({ "alg": "RS256", "kid": "x", "jwk": signer.jwk("x", "RS256") }),
                &claims,
            ),
        ),
    ] {
        assert_eq!(
            ask(&service, "/me", &token).await.fault(),
            (401, "UNAUTHENTICATED"),
            "{attack}"
        );
    }
}

#[tokio::test]
async fn should_refuse_tokens_that_are_not_for_this_service_or_time() {
    let clock = VirtualClock::new(Timestamp::now());
    let signer = Signer::ed25519();
    let issuer =
        JwtIssuer::new(ISSUER, AUDIENCE, StaticKeys::new(keys(&[signer.jwk("k", "EdDSA")])));
    let service = service(&clock, [issuer]).await;
    let (header, now) = (json!({ "alg": "EdDSA", "kid": "k" }), seconds(clock.now()));
    for (field, value, accepted) in [
        ("aud", json!([AUDIENCE, "other"]), true),
        ("aud", json!("other"), false),
        ("aud", json!(null), false),
        ("iss", json!("https://evil.example"), false),
        ("iss", json!(null), false),
        ("exp", json!(now - 10), true),
        ("exp", json!(now - 31), false),
        ("exp", json!(null), false),
        ("exp", json!("never"), false),
        ("exp", json!(-1e300), false),
        ("nbf", json!(now + 10), true),
        ("nbf", json!(now + 40), false),
        ("sub", json!(null), false),
        ("sub", json!(""), false),
        ("sub", json!("a\r\nb"), false),
    ] {
        let token = signer.token(&header, &changed(claims(&clock), field, value.clone()));
        let answer = ask(&service, "/me", &token).await;
        assert_eq!(answer.status == 200, accepted, "{field} {value}: {answer:?}");
    }
    let token = signer.token(&header, &claims(&clock));
    assert_eq!(ask(&service, "/runs", &token).await.status, 200);
    assert_eq!(ask(&service, "/tasks", &token).await.fault(), (403, "PERMISSION_DENIED"));
    clock.advance(Duration::from_secs(331));
    assert_eq!(ask(&service, "/runs", &token).await.fault(), (401, "UNAUTHENTICATED"));
}

#[tokio::test]
async fn should_accept_tokens_of_several_issuers_with_their_own_keys_only() {
    let clock = VirtualClock::new(Timestamp::now());
    let (one, two) = (Signer::ed25519(), Signer::ed25519());
    let issuer = |name: &str, signer: &Signer| {
        let source = StaticKeys::new(keys(&[signer.jwk("k", "EdDSA")]));
        let operator = Permissions::parse(["runs:*"]).unwrap();
        JwtIssuer::new(name, AUDIENCE, source).with_role("operator", operator)
    };
    let service =
        service(&clock, [issuer(ISSUER, &one), issuer("https://two.example", &two)]).await;
    let header = json!({ "alg": "EdDSA", "kid": "k" });
    let first = changed(claims(&clock), "roles", json!(["operator", "unknown"]));
    let second = changed(claims(&clock), "iss", json!("https://two.example"));
    let me = ask(&service, "/me", &one.token(&header, &first)).await;
    assert_eq!(me.attributes()["permissions"], json!(["runs:*", "runs:read"]));
    assert_eq!(ask(&service, "/me", &two.token(&header, &second)).await.status, 200);
    assert_eq!(ask(&service, "/me", &two.token(&header, &first)).await.fault().0, 401);
    assert_eq!(ask(&service, "/me", &one.token(&header, &second)).await.fault().0, 401);
}

/// Issuers write objects, numbers and `null` into the claims that grant.
#[tokio::test]
async fn should_grant_what_is_readable_of_claims_of_another_shape() {
    let clock = VirtualClock::new(Timestamp::now());
    let signer = Signer::ed25519();
    let source = StaticKeys::new(keys(&[signer.jwk("k", "EdDSA")]));
    let viewer = Permissions::parse(["tasks:read"]).unwrap();
    let issuer = JwtIssuer::new(ISSUER, AUDIENCE, source).with_role("viewer", viewer);
    let service = service(&clock, [issuer]).await;
    let header = json!({ "alg": "EdDSA", "kid": "k" });
    let kept = json!(["runs:read"]);
    for (field, value, granted) in [
        ("roles", json!([{ "name": "sales" }, "viewer", null]), json!(["runs:read", "tasks:read"])),
        ("roles", json!({ "name": "viewer" }), kept.clone()),
        ("scp", json!(null), kept.clone()),
        ("permissions", json!({ "runs:*": true }), kept.clone()),
        ("scope", json!(null), json!([])),
        ("scope", json!(7), json!([])),
    ] {
        let token = signer.token(&header, &changed(claims(&clock), field, value.clone()));
        let me = ask(&service, "/me", &token).await;
        assert_eq!(me.status, 200, "{field} {value}: {me:?}");
        assert_eq!(me.attributes()["permissions"], granted, "{field} {value}");
    }
}

/// RFC 7517, section 5: a reader ignores the keys that it cannot read.
#[tokio::test]
async fn should_leave_out_the_keys_that_cannot_be_read() {
    let clock = VirtualClock::new(Timestamp::now());
    let signer = Signer::ed25519();
    let odd = [json!({ "kid": "k" }), json!({ "kty": "OKP", "kid": 7 }), json!(null), json!("k")];
    let set = [&odd[..], &[signer.jwk("k", "EdDSA")]].concat();
    let issuer = JwtIssuer::new(ISSUER, AUDIENCE, StaticKeys::new(keys(&set)));
    let service = service(&clock, [issuer]).await;
    let token = signer.token(&json!({ "alg": "EdDSA", "kid": "k" }), &claims(&clock));
    let answer = ask(&service, "/me", &token).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// RFC 7518, section 6.3.1.1, warns of issuers that send a zero before the modulus.
#[tokio::test]
async fn should_read_numbers_with_leading_zeros_and_padding() {
    let clock = VirtualClock::new(Timestamp::now());
    let signer = Signer::rsa(&signature::RSA_PKCS1_SHA256);
    let Signer::Rsa(pair, _) = &signer else { panic!("an RSA key") };
    let public: signature::RsaPublicKeyComponents<Vec<u8>> = pair.public().into();
    let padded = |bytes: &[u8]| URL_SAFE.encode([&[0], bytes].concat());
    let mut key = signer.jwk("k", "RS256");
    (key["n"], key["e"]) = (padded(&public.n).into(), padded(&public.e).into());
    let issuer = JwtIssuer::new(ISSUER, AUDIENCE, StaticKeys::new(keys(&[key])));
    let service = service(&clock, [issuer]).await;
    let token = signer.token(&json!({ "alg": "RS256", "kid": "k" }), &claims(&clock));
    let answer = ask(&service, "/me", &token).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// The subject of a token says something together with its issuer only, and an API key has none.
#[tokio::test]
async fn should_tell_callers_with_the_same_subject_apart() {
    let clock = VirtualClock::new(Timestamp::now());
    let (one, two) = (Signer::ed25519(), Signer::ed25519());
    let operator = Permissions::parse(["runs:*"]).unwrap();
    let issuer = |name: &str, signer: &Signer| {
        let source = StaticKeys::new(keys(&[signer.jwk("k", "EdDSA")]));
        JwtIssuer::new(name, AUDIENCE, source).with_role("operator", operator.clone())
    };
    let key = ApiKey::new(ApiKeyHash::of("secret"), claims(&clock)["sub"].as_str().unwrap());
    let options = ApiOptions::new()
        .with_authenticator(JwtTokens::new([
            issuer(ISSUER, &one),
            issuer("https://two.example", &two),
        ]))
        .with_authenticator(ApiKeys::new([key.with_permissions(operator.clone())]))
        .with_rate_limit(RateLimit::new(2, Duration::from_secs(60)).unwrap())
        .with_clock(Arc::new(clock.clone()));
    let service = Service::with(options).await;
    let header = json!({ "alg": "EdDSA", "kid": "k" });
    let first = changed(claims(&clock), "roles", json!(["operator"]));
    let second = changed(first.clone(), "iss", json!("https://two.example"));
    let bearer = |signer: &Signer, claims: &Value| {
        ("authorization", format!("Bearer {}", signer.token(&header, claims)))
    };
    let callers = [bearer(&one, &first), bearer(&two, &second), ("x-api-key", "secret".to_owned())];
    let mut ids = std::collections::BTreeSet::new();
    for _ in 0..2 {
        for (name, value) in &callers {
            let path = "/workflows/approval/actions/execute";
            let mut post = request(Method::POST, path, Some("{}".to_owned()));
            post.headers_mut().insert(*name, HeaderValue::from_str(value).unwrap());
            post.headers_mut().insert("idempotency-key", HeaderValue::from_static("k1"));
            let answer = service.send(post).await;
            assert_eq!(answer.status, 202, "{answer:?}");
            ids.insert(answer.body["data"]["id"].to_string());
        }
    }
    assert_eq!(ids.len(), callers.len());
    let log = service.runtime.store().unwrap().read_log(0, 1000).await.unwrap();
    let called = log.iter().filter(|it| it.event.event_type.as_str() == "system.api.called");
    let scopes = called.map(|it| it.event.data::<Value>().unwrap()["scope"].to_string());
    let scopes: std::collections::BTreeSet<_> = scopes.collect();
    let expected = ["jwt:https://issuer.example", "jwt:https://two.example", "api_key"];
    assert_eq!(scopes, expected.iter().map(|it| format!("{it:?}")).collect());
}

/// Counts how often it is asked.
#[derive(Clone, Debug)]
struct Counted(Arc<AtomicUsize>, String);

#[async_trait::async_trait]
impl KeySource for Counted {
    async fn fetch(&self) -> Result<KeySetDocument, AuthError> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(KeySetDocument::new(self.1.clone()))
    }
}

#[tokio::test]
async fn should_not_fetch_keys_for_every_unknown_key() {
    let clock = VirtualClock::new(Timestamp::now());
    let signer = Signer::ed25519();
    let source = Counted(Arc::default(), keys(&[signer.jwk("k", "EdDSA")]));
    let service = service(&clock, [JwtIssuer::new(ISSUER, AUDIENCE, source.clone())]).await;
    for number in 0..100 {
        let header = json!({ "alg": "EdDSA", "kid": format!("k{number}") });
        let answer = ask(&service, "/me", &signer.token(&header, &claims(&clock))).await;
        assert_eq!(answer.fault(), (401, "UNAUTHENTICATED"));
    }
    assert_eq!(source.0.load(Ordering::SeqCst), 1);
    clock.advance(Duration::from_secs(30));
    let header = json!({ "alg": "EdDSA", "kid": "k1" });
    ask(&service, "/me", &signer.token(&header, &claims(&clock))).await;
    assert_eq!(source.0.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn should_take_new_keys_from_a_file_and_forget_old_ones() {
    let clock = VirtualClock::new(Timestamp::now());
    let (old, new) = (Signer::ed25519(), Signer::ed25519());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.json");
    let service = service(&clock, [JwtIssuer::new(ISSUER, AUDIENCE, FileKeys::new(&path))]).await;
    let token = |signer: &Signer, id: &str| {
        signer.token(&json!({ "alg": "EdDSA", "kid": id }), &claims(&clock))
    };
    let missing = ask(&service, "/me", &token(&old, "old")).await;
    assert_eq!(missing.fault(), (503, "AUTHENTICATION_UNAVAILABLE"));
    std::fs::write(&path, keys(&[old.jwk("old", "EdDSA")])).unwrap();
    clock.advance(Duration::from_secs(30));
    assert_eq!(ask(&service, "/me", &token(&old, "old")).await.status, 200);
    std::fs::write(&path, keys(&[new.jwk("new", "EdDSA")])).unwrap();
    clock.advance(Duration::from_secs(30));
    assert_eq!(ask(&service, "/me", &token(&new, "new")).await.status, 200);
    assert_eq!(ask(&service, "/me", &token(&old, "old")).await.fault().0, 401);
}

#[tokio::test]
async fn should_take_new_keys_in_time_when_the_clock_is_set_back() {
    let now = Timestamp::now();
    let clock = VirtualClock::new(now + Duration::from_secs(3600));
    let (old, new) = (Signer::ed25519(), Signer::ed25519());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.json");
    std::fs::write(&path, keys(&[old.jwk("old", "EdDSA")])).unwrap();
    let service = service(&clock, [JwtIssuer::new(ISSUER, AUDIENCE, FileKeys::new(&path))]).await;
    let token = |signer: &Signer, id: &str| {
        signer.token(&json!({ "alg": "EdDSA", "kid": id }), &claims(&clock))
    };
    assert_eq!(ask(&service, "/me", &token(&old, "old")).await.status, 200);
    std::fs::write(&path, keys(&[new.jwk("new", "EdDSA")])).unwrap();
    clock.set(now);
    clock.advance(JwtIssuer::DEFAULT_REFRESH_INTERVAL);
    assert_eq!(ask(&service, "/me", &token(&new, "new")).await.status, 200);
}
