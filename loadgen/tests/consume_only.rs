//! Reading alone: a topic that was filled by one run is read from its start by others, by the SDK and raw.

use std::{path::Path, process::Command};

use broker::{Broker, BrokerHandle};
use config::{Config, Inputs, Machine};
use serde_json::Value;

fn broker(dir: &Path) -> BrokerHandle {
    let flags = [("dir", dir.to_str().unwrap()), ("cores", "0"), ("memory", "64MiB"), ("listen", "127.0.0.1:0")];
    let flags = [&flags[..], &[("admin.listen", "off")]].concat();
    let machine = Machine { cores: vec![0], memory_bytes: 1 << 30 };
    let config = Config::load(&Inputs { flags: &flags, ..Inputs::default() }, &machine).unwrap();
    Broker::start(&config).unwrap()
}

fn loadgen(broker: &BrokerHandle, flags: &[&str]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args(["--brokers", &broker.address().to_string(), "--json", "-"])
        .args(flags)
        .output()
        .expect("the binary was built");
    assert_eq!(output.status.code(), Some(0), "{flags:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_topic_is_read_from_its_start_to_its_end() {
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let dir = home.path().join("data");
    let serving = broker(&dir);
    let fill = ["--topic", "cold", "--partitions", "2", "--record-size", "500", "--raw", "--consumers", "0"];
    let window = ["--warm-up", "0s", "--duration", "500ms", "--no-verify"];
    let filled = loadgen(&serving, &[&fill[..], &window].concat());
    serving.stop();

    let serving = broker(&dir);
    let place = home.path().to_str().unwrap();
    let read = ["--topic", "cold", "--consume-only", "--consumers", "2", "--duration", "60s", "--dir", place];
    let (raw, sdk) = (loadgen(&serving, &[&read[..], &["--raw"]].concat()), loadgen(&serving, &read));
    let sent = filled["produce"]["records"].as_u64().unwrap();
    for report in [&raw, &sdk] {
        let records = report["consume"]["records"].as_u64().unwrap();
        assert!(sent > 1_000 && records >= sent, "{records} read, {sent} sent");
        assert_eq!(report["consume"]["records"], raw["consume"]["records"], "both read all there is");
        assert!(report["consume"]["bytes_per_s"].as_f64().unwrap() > 500.0, "{report}");
        assert_eq!(report["produce"]["records"], 0);
        assert!(report["limits"]["disk_read_bytes_per_s"].as_f64().unwrap() > 0.0, "{report}");
        assert!(report["ratios"]["disk_read"].as_f64().unwrap() > 0.0, "{report}");
    }
    serving.stop();
}
