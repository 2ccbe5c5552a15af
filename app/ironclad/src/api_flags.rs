//! Flags of the API server, under upstream's names, and what they make of its configuration.

use anyhow::{Context, Result, bail};
use apiserver::audit::{Audit, Delivery, Format, LogOptions, Mode, Policy, Truncate};
use apiserver::encryption::Encryption;
use camino::Utf8PathBuf;
use clap::{ArgAction, Args};
use std::sync::Arc;
use std::time::Duration;

/// A Go duration such as `90s` or `1h30m`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let nanos = machinery::codec::parse_duration(text)?;
    u64::try_from(nanos).map(Duration::from_nanos).map_err(|_| format!("{text} is negative"))
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "API server")]
pub struct ApiFlags {
    /// Most reads in flight; with the next flag, the seats that API priority and fairness divides
    #[arg(long, value_name = "N", default_value_t = 400)]
    pub max_requests_inflight: u32,
    /// Most writes in flight
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub max_mutating_requests_inflight: u32,
    /// Longest time for a request that is no watch or tunnel
    #[arg(long, value_name = "DURATION", default_value = "1m0s", value_parser = duration)]
    pub request_timeout: Duration,
    /// How long to serve on after a signal to stop, while /readyz says no
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration)]
    pub shutdown_delay_duration: Duration,

    /// EncryptionConfiguration: which resources are stored encrypted, and how
    #[arg(long, value_name = "FILE")]
    pub encryption_provider_config: Option<Utf8PathBuf>,
    /// Take over changes of that file while running
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", requires = "encryption_provider_config")]
    pub encryption_provider_config_automatic_reload: bool,

    /// The audit policy; without it nothing is recorded
    #[arg(long, value_name = "FILE")]
    pub audit_policy_file: Option<Utf8PathBuf>,
    /// Where audit events are written; '-' is standard output
    #[arg(long, value_name = "FILE", requires = "audit_policy_file")]
    pub audit_log_path: Option<Utf8PathBuf>,
    /// Days to keep old audit logs; 0: for ever
    #[arg(long, value_name = "DAYS", default_value_t = 366)]
    pub audit_log_maxage: u32,
    /// Old audit logs to keep; 0: all
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub audit_log_maxbackup: u32,
    /// Megabytes at which the audit log is rotated; 0: never
    #[arg(long, value_name = "MB", default_value_t = 100)]
    pub audit_log_maxsize: u32,
    /// Compress rotated audit logs with gzip
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub audit_log_compress: bool,
    /// json or legacy (one line of text)
    #[arg(long, value_name = "FORMAT", default_value = "json", value_parser = ["json", "legacy"])]
    pub audit_log_format: String,
    /// batch, blocking or blocking-strict
    #[arg(long, value_name = "MODE", default_value = "blocking")]
    pub audit_log_mode: Mode,
    /// Events held before writing (batch mode)
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub audit_log_batch_buffer_size: usize,
    /// Most events of one batch
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub audit_log_batch_max_size: usize,
    /// Longest wait for a full batch
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration)]
    pub audit_log_batch_max_wait: Duration,
    /// Limit batches a second
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub audit_log_batch_throttle_enable: bool,
    /// Batches a second
    #[arg(long, value_name = "RATE", default_value_t = 10.0)]
    pub audit_log_batch_throttle_qps: f32,
    /// Batches at once after a pause
    #[arg(long, value_name = "N", default_value_t = 15)]
    pub audit_log_batch_throttle_burst: u32,
    /// Cut down events that are too large
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub audit_log_truncate_enabled: bool,
    /// Most bytes of one event
    #[arg(long, value_name = "BYTES", default_value_t = 102_400)]
    pub audit_log_truncate_max_event_size: usize,
    /// Most bytes of one batch
    #[arg(long, value_name = "BYTES", default_value_t = 10_485_760)]
    pub audit_log_truncate_max_batch_size: usize,

    /// Kubeconfig of the service that audit events are posted to
    #[arg(long, value_name = "FILE", requires = "audit_policy_file")]
    pub audit_webhook_config_file: Option<Utf8PathBuf>,
    /// Wait before the first retry
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub audit_webhook_initial_backoff: Duration,
    /// batch, blocking or blocking-strict
    #[arg(long, value_name = "MODE", default_value = "batch")]
    pub audit_webhook_mode: Mode,
    /// Events held before posting (batch mode)
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub audit_webhook_batch_buffer_size: usize,
    /// Most events of one batch
    #[arg(long, value_name = "N", default_value_t = 400)]
    pub audit_webhook_batch_max_size: usize,
    /// Longest wait for a full batch
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub audit_webhook_batch_max_wait: Duration,
    /// Limit batches a second
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true")]
    pub audit_webhook_batch_throttle_enable: bool,
    /// Batches a second
    #[arg(long, value_name = "RATE", default_value_t = 10.0)]
    pub audit_webhook_batch_throttle_qps: f32,
    /// Batches at once after a pause
    #[arg(long, value_name = "N", default_value_t = 15)]
    pub audit_webhook_batch_throttle_burst: u32,
    /// Cut down events that are too large
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub audit_webhook_truncate_enabled: bool,
    /// Most bytes of one event
    #[arg(long, value_name = "BYTES", default_value_t = 102_400)]
    pub audit_webhook_truncate_max_event_size: usize,
    /// Most bytes of one batch
    #[arg(long, value_name = "BYTES", default_value_t = 10_485_760)]
    pub audit_webhook_truncate_max_batch_size: usize,
}

impl ApiFlags {
    /// Encryption at rest, if it is configured.
    pub async fn encryption(&self) -> Result<Option<Arc<Encryption>>> {
        let Some(file) = &self.encryption_provider_config else { return Ok(None) };
        let reload = self.encryption_provider_config_automatic_reload;
        let loaded = Encryption::load(file.as_std_path(), reload).await;
        loaded.map(Some).context("--encryption-provider-config")
    }

    /// Reads what the flags name, and refuses what is not right, before anything is started.
    pub fn apply(&self, config: &mut apiserver::Config) -> Result<()> {
        if self.max_requests_inflight == 0 && self.max_mutating_requests_inflight == 0 {
            bail!("--max-requests-inflight and --max-mutating-requests-inflight cannot both be 0");
        }
        if self.request_timeout.is_zero() {
            bail!("--request-timeout can not be zero");
        }
        config.max_requests_inflight = self.max_requests_inflight;
        config.max_mutating_requests_inflight = self.max_mutating_requests_inflight;
        config.request_timeout = self.request_timeout;
        config.shutdown_delay = self.shutdown_delay_duration;
        config.audit = self.audit()?;
        Ok(())
    }

    fn audit(&self) -> Result<Option<Arc<Audit>>> {
        let Some(file) = &self.audit_policy_file else { return Ok(None) };
        let policy = Policy::load(file.as_std_path()).context("--audit-policy-file")?;
        let mut audit = Audit::new(policy);
        let throttle = |on: bool, rate: f32, burst: u32| on.then_some((rate, burst));
        let truncate = |on: bool, max_event, max_batch| on.then_some(Truncate { max_event, max_batch });
        if let Some(path) = &self.audit_log_path {
            let options = LogOptions {
                path: path.into(),
                format: if self.audit_log_format == "legacy" { Format::Legacy } else { Format::Json },
                max_age: self.audit_log_maxage,
                max_backups: self.audit_log_maxbackup,
                max_size: self.audit_log_maxsize,
                compress: self.audit_log_compress,
            };
            let delivery = Delivery {
                mode: self.audit_log_mode,
                buffer: self.audit_log_batch_buffer_size,
                max_batch: self.audit_log_batch_max_size,
                max_wait: self.audit_log_batch_max_wait,
                throttle: throttle(
                    self.audit_log_batch_throttle_enable,
                    self.audit_log_batch_throttle_qps,
                    self.audit_log_batch_throttle_burst,
                ),
                truncate: truncate(
                    self.audit_log_truncate_enabled,
                    self.audit_log_truncate_max_event_size,
                    self.audit_log_truncate_max_batch_size,
                ),
            };
            audit = audit.with_log(options, checked("log", delivery)?).context("--audit-log-path")?;
        }
        if let Some(file) = &self.audit_webhook_config_file {
            let post =
                apiserver::audit::service(file.as_std_path()).context("--audit-webhook-config-file")?;
            let delivery = Delivery {
                mode: self.audit_webhook_mode,
                buffer: self.audit_webhook_batch_buffer_size,
                max_batch: self.audit_webhook_batch_max_size,
                max_wait: self.audit_webhook_batch_max_wait,
                throttle: throttle(
                    self.audit_webhook_batch_throttle_enable,
                    self.audit_webhook_batch_throttle_qps,
                    self.audit_webhook_batch_throttle_burst,
                ),
                truncate: truncate(
                    self.audit_webhook_truncate_enabled,
                    self.audit_webhook_truncate_max_event_size,
                    self.audit_webhook_truncate_max_batch_size,
                ),
            };
            let delivery = checked("webhook", delivery)?;
            audit = audit.with_webhook(post, self.audit_webhook_initial_backoff, delivery);
        }
        Ok(Some(Arc::new(audit)))
    }
}

fn checked(name: &str, delivery: Delivery) -> Result<Delivery> {
    if delivery.mode == Mode::Batch {
        for (what, value) in [("buffer size", delivery.buffer), ("max batch size", delivery.max_batch)] {
            if value == 0 {
                bail!("invalid audit batch {name} {what} 0, must be a positive number");
            }
        }
        if let Some((rate, burst)) = delivery.throttle {
            if rate.is_nan() || rate <= 0.0 {
                bail!("invalid audit batch {name} throttle QPS {rate}, must be a positive number");
            }
            if burst == 0 {
                bail!("invalid audit batch {name} throttle burst 0, must be a positive number");
            }
        }
    }
    Ok(delivery)
}
