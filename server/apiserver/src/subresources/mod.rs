//! Subresources, by mechanism: parts of the object itself (status, ephemeralcontainers, resize, finalize,
//! approval), views of it (scale), actions (binding, eviction, token), and tunnels to where it runs (log, exec,
//! attach, portforward, proxy).

pub(crate) mod binding;
mod connect;
mod eviction;
pub(crate) mod proxy;
mod scale;
mod token;
mod tunnel;

pub(crate) use scale::Paths as ScalePaths;

use crate::ApiServer;
use crate::chain::Call;
use crate::http::Body;
use crate::registry::update::Mode;
use crate::resolve::Resource;
use crate::status::ApiError;
use crate::verbs;
use http::Response;
use std::sync::Arc;

pub(crate) async fn handle(
    server: &ApiServer,
    call: &mut Call,
    resource: &Arc<Resource>,
    namespace: &str,
) -> Result<Response<Body>, ApiError> {
    let name = call.info.name.clone();
    let subresource = call.info.subresource.clone();
    let verb = call.info.verb;
    let known = resource.subresource(&subresource).ok_or_else(ApiError::no_such_path)?;
    if !known.verbs.contains(&verb) {
        return Err(ApiError::method_unknown());
    }
    match subresource.as_str() {
        "binding" => binding::create(server, call, namespace, &name).await,
        "eviction" => eviction::create(server, call, resource, namespace, &name).await,
        "token" => token::create(server, call, namespace, &name).await,
        "scale" => scale::handle(server, call, resource, namespace, &name).await,
        "log" | "exec" | "attach" | "portforward" => {
            tunnel::handle(server, call, resource, namespace, &name, &subresource).await
        }
        "proxy" => proxy::handle(server, call, resource, namespace, &name).await,
        // The same object, of which only a part may change; its strategy says which.
        _ => match verb {
            "get" => verbs::get(server, call, resource, namespace, &name).await,
            "update" => {
                verbs::update(server, call, resource, namespace, &name, &subresource, Mode::default()).await
            }
            "patch" => verbs::apply_patch(server, call, resource, namespace, &name, &subresource).await,
            _ => Err(ApiError::method_unknown()),
        },
    }
}
