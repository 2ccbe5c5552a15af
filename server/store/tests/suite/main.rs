//! One body, two subjects: what [`store::Store`] promises, asked of every engine.

#![allow(clippy::unwrap_used)]

mod body;
mod etcd_only;
mod subjects;

/// One test per promise and engine.
macro_rules! suite {
    ($($name:ident)*) => {
        mod embedded { $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let subject = crate::subjects::embedded();
                crate::body::$name(subject.store.clone()).await;
            }
        )* }
        mod etcd { $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                if let Some(subject) = crate::subjects::etcd().await {
                    crate::body::$name(subject.store.clone()).await;
                }
            }
        )* }
    };
}

suite! {
    compare_and_put
    deleting
    prefixes_and_their_edges
    range_is_ordered_limited_and_at_one_revision
    watch_has_order_and_no_gaps
    watch_resumes_and_tells_what_was_before
    compacted_history_is_refused
    keys_expire
    replaced_keys_do_not_expire_early
    concurrent_counters_lose_nothing
    every_watcher_sees_the_same_history
    large_values
    a_future_watch_skips_until_its_revision
    nudge_reaches_the_newest_revision
}
