//! Deletes certificate requests that nobody needs any more (upstream's `csrcleaner`): an hour after they were approved
//! and signed, denied or failed, a day after they were made and left alone, and once their certificate has expired.

use super::{IDENTITY, has, is_issued};
use crate::{Context, Error, synced};
use client::WorkQueue;
use client::controller::Outcome;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kit::pki::pem;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams};
use std::time::Duration;

const NAME: &str = "csrcleaner";
const SETTLED: SignedDuration = SignedDuration::from_hours(1);
const PENDING: SignedDuration = SignedDuration::from_hours(24);

pub async fn run(cx: Context) -> Result<(), Error> {
    let client = cx.client_for(IDENTITY);
    let requests = cx.informers.informer::<CertificateSigningRequest>();
    if !synced!(cx, requests) {
        return Ok(());
    }
    let queue = WorkQueue::<String>::new();
    let sink = queue.clone();
    requests.subscribe(move |change| {
        if !change.is_deleted() {
            sink.add(change.object().name_any());
        }
    });
    client::controller::run(NAME, 1, queue, cx.stop.clone(), |name| {
        let (client, requests) = (&client, &requests);
        async move {
            let Some(current) = requests.get(&client::ObjectKey::cluster(&name)) else {
                return Ok(Outcome::DONE);
            };
            let now = Timestamp::now();
            let Some(end) = end(&current) else { return Ok(Outcome::DONE) };
            if end > now {
                let wait = Duration::try_from(end.duration_since(now)).unwrap_or_default();
                return Ok(Outcome::after(wait + Duration::from_secs(1)));
            }
            let api: Api<CertificateSigningRequest> = Api::all(client.clone());
            client::errors::ignore_not_found(api.delete(&name, &DeleteParams::default()).await)
                .map(|()| Outcome::DONE)
        }
    })
    .await;
    Ok(())
}

/// When the request may go; `None`: not before something happens to it.
fn end(request: &CertificateSigningRequest) -> Option<Timestamp> {
    let conditions = request.status.as_ref().and_then(|s| s.conditions.as_ref());
    let conditions: Vec<_> = conditions.into_iter().flatten().collect();
    if conditions.is_empty() {
        return request.metadata.creation_timestamp.as_ref().map(|t| t.0 + PENDING);
    }
    let settled = conditions
        .iter()
        .filter(|c| match c.type_.as_str() {
            "Approved" => is_issued(request),
            "Denied" | "Failed" => true,
            _ => false,
        })
        .filter_map(|c| c.last_update_time.as_ref().map(|t| t.0 + SETTLED));
    let expired = expiry(request).filter(|_| has(request, "Approved"));
    settled.chain(expired).min()
}

fn expiry(request: &CertificateSigningRequest) -> Option<Timestamp> {
    let certificate = request.status.as_ref()?.certificate.as_ref()?;
    let chain = pem::certificates(&certificate.0).ok()?;
    let until = kit::pki::not_after(chain.first()?).ok()?;
    Timestamp::from_second(until).ok()
}

#[cfg(test)]
mod tests {
    use super::super::KUBELET;
    use super::super::sign::tests::request;
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use kit::pki::{Authority, LeafSpec, Sans};

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn each_state_has_its_time() {
        let mut r = request(KUBELET, "system:node:n1", &["system:nodes"], Sans::default(), "client auth");
        r.metadata.creation_timestamp = Some(Time(at(0)));
        let status = r.status.take().unwrap();
        assert_eq!(end(&r), Some(at(24 * 3600)));
        r.status = Some(status);
        let condition = |r: &mut CertificateSigningRequest, kind: &str| {
            let c = &mut r.status.as_mut().unwrap().conditions.as_mut().unwrap()[0];
            (c.type_, c.last_update_time) = (kind.into(), Some(Time(at(100))));
        };
        condition(&mut r, "Approved");
        // Approved and not signed: it waits for its signer.
        assert_eq!(end(&r), None);
        condition(&mut r, "Denied");
        assert_eq!(end(&r), Some(at(3700)));
        condition(&mut r, "Approved");
        let leaf = Authority::generate("ca").unwrap().issue(&LeafSpec::client("x", &[])).unwrap();
        let pem = leaf.certificate_pem().into_bytes();
        r.status.as_mut().unwrap().certificate = Some(k8s_openapi::ByteString(pem));
        assert_eq!(end(&r), Some(at(3700)));
        // Its certificate's end comes first.
        let late = at(leaf.not_after.unix_timestamp() + 100);
        r.status.as_mut().unwrap().conditions.as_mut().unwrap()[0].last_update_time = Some(Time(late));
        assert_eq!(end(&r), Some(at(leaf.not_after.unix_timestamp())));
    }
}
