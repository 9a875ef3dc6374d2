//! The driver's REST API, which Rollcall polls for counters.

use crate::doctor::facts::{Checked, Facts, Finding, Known};
use crate::doctor::settings::Settings;

const ENABLED: &str = "spark.ui.enabled";
const PORT: &str = "spark.ui.port";
const TLS_PORT: &str = "spark.ssl.ui.port";
/// `SSLOptions` and `JettyUtils`: the port of the encrypted UI, unless it is set.
const TLS_OFFSET: u64 = 400;

/// Whether it answers.
pub fn api(facts: &Facts) -> Checked {
    if let Ok(settings) = facts.settings()
        && !settings.flag(ENABLED, true)?
    {
        let what = format!("{ENABLED} is off: the driver has no REST API");
        let why = "Rollcall has no counters for roll policies, and in mode Own it does not see when the driver is up";
        return Ok(vec![
            Finding::error("ui-disabled", what, why)
                .set(format!("{ENABLED}=true"))
                .source("Spark: internal.config.UI.UI_ENABLED"),
        ]);
    }
    facts.rest.clone().map(|()| Vec::new())
}

/// The setting of the port, and the port.
pub fn port(settings: &Settings) -> Known<(&'static str, u64)> {
    let plain = settings.number(PORT)?.unwrap_or(4040);
    if !settings.flag("spark.ssl.ui.enabled", settings.flag("spark.ssl.enabled", false)?)? {
        return Ok((PORT, plain));
    }
    Ok((TLS_PORT, settings.number(TLS_PORT)?.unwrap_or(plain.saturating_add(TLS_OFFSET))))
}

/// Whether Rollcall asks it where and how it answers.
pub fn settings(facts: &Facts) -> Checked {
    let (settings, driver) = (facts.settings()?, &facts.fleet.spec.driver);
    let (key, port) = port(settings)?;
    let tls = key == TLS_PORT;
    let mut findings = Vec::new();
    if port == 0 {
        let finding = Finding::error(
            "rest-port-random",
            format!("{key} is 0, a random port"),
            "Rollcall cannot know where to ask",
        );
        findings.push(
            finding.set(format!("{key}={}", driver.rest_port)).source("Spark: internal.config.UI.UI_PORT"),
        );
    } else if port != u64::from(driver.rest_port.get()) {
        let what = format!("{key} is {port}, and Rollcall asks port {}", driver.rest_port);
        let finding =
            Finding::error("rest-port-differs", what, "Rollcall gets no counters for roll policies");
        findings.push(
            finding.set(format!("spec.driver.restPort: {port}")).source("Spark: internal.config.UI.UI_PORT"),
        );
    }
    match (tls, &driver.rest_tls) {
        (true, None) => {
            let finding = Finding::error(
                "rest-needs-tls",
                "the driver's UI is encrypted",
                "Rollcall asks without TLS, and gets no answer",
            );
            let line = "spec.driver.restTls: {caFile: FILE, serverName: NAME}";
            findings.push(finding.set(line).source("Spark: SSLOptions, spark.ssl.ui.enabled"));
        }
        (false, Some(_)) => {
            let what = "the fleet's document has driver.restTls, and the driver's UI is not encrypted";
            let finding = Finding::error("rest-without-tls", what, "Rollcall's TLS handshake fails");
            findings.push(
                finding
                    .set("spark.ssl.ui.enabled=true, or leave out spec.driver.restTls")
                    .source("Spark: SSLOptions"),
            );
        }
        (true, Some(_)) | (false, None) => {}
    }
    let filters = settings.list("spark.ui.filters")?;
    if !filters.is_empty() && driver.rest_token_file.is_none() {
        let what = format!("spark.ui.filters has {}", filters.join(", "));
        let why = "a filter that authenticates users refuses Rollcall, which has no token for it";
        let finding = Finding::warning("rest-filtered", what, why).set("spec.driver.restTokenFile: FILE");
        findings.push(finding.source("Spark: internal.config.UI.UI_FILTERS"));
    }
    Ok(findings)
}
