//! Settings as a person meets them: who wins, what is refused, and in which words.

use std::time::Duration;

use config::{Config, Inputs, Machine, PROPERTIES, Source};
use proptest::prelude::*;

fn machine() -> Machine {
    Machine { cores: vec![0, 1], memory_bytes: 8 << 30 }
}

fn load(file: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Config, String> {
    let inputs = Inputs { file: Some(("etc/streambus.toml", file)), environment, flags };
    Config::load(&inputs, &machine()).map_err(|error| error.to_string())
}

#[track_caller]
fn refused(file: &str, environment: &[(&str, &str)], flags: &[(&str, &str)], expected: &str) {
    let error = load(file, environment, flags).expect_err("must be refused");
    assert_eq!(error, expected, "\n--- found:\n{error}\n--- expected:\n{expected}\n---");
}

#[test]
fn defaults() {
    let config = Config::load(&Inputs::default(), &machine()).expect("defaults are fine");
    assert_eq!(config.broker.listen.to_string(), "127.0.0.1:9092");
    assert_eq!(config.admin.listen.expect("on").to_string(), "127.0.0.1:9640");
    assert_eq!(config.broker.cores, [0, 1]);
    assert_eq!(config.memory_bytes, 1 << 30);
    assert_eq!(config.memory_share().memtables, 256 << 20);
    assert_eq!(config.storage.batch_bytes_max, 1_048_588);
    assert_eq!(config.storage.producer_id_expiration, Duration::from_secs(86_400));
    assert_eq!(config.broker.idle_timeout, Duration::from_secs(600));
    assert!(!config.broker.insecure);
    assert!(config.settings().all(|(_, setting)| setting.source == Source::Default));
}

#[test]
fn the_sample_file_is_the_defaults() {
    let sample = include_str!("../streambus.toml");
    assert_eq!(
        sample,
        config::sample(),
        "config/streambus.toml is out of date: run `cargo run -p config --example sample > config/streambus.toml`"
    );
    let config = load(sample, &[], &[]).expect("the sample is fine");
    let defaults = Config::load(&Inputs::default(), &machine()).expect("defaults are fine");
    for ((name, setting), (_, default)) in config.settings().zip(defaults.settings()) {
        assert_eq!(setting.value, default.value, "{name}");
        assert!(matches!(setting.source, Source::File(_)), "{name} is missing from the sample");
    }
    assert_eq!(config.settings().count(), PROPERTIES.len());
}

#[test]
fn flag_over_environment_over_file_over_default() {
    let file = "connections_max = 100\nconnections_per_address_max = 50\nidle_timeout = \"1 min\"";
    let environment =
        [("STREAMBUS_CONNECTIONS_MAX", "200"), ("STREAMBUS_IDLE_TIMEOUT", "2 min"), ("HOME", "elsewhere")];
    let flags = [("connections_max", "300")];
    let config = load(file, &environment, &flags).expect("fine");
    assert_eq!(config.broker.connections_max, 300);
    assert_eq!(config.setting("connections_max").source.to_string(), "--connections-max");
    assert_eq!(config.broker.idle_timeout, Duration::from_secs(120));
    assert_eq!(config.setting("idle_timeout").source.to_string(), "STREAMBUS_IDLE_TIMEOUT");
    assert_eq!(config.broker.connections_per_address_max, 50);
    assert_eq!(config.setting("connections_per_address_max").source.to_string(), "etc/streambus.toml:2");
    assert_eq!(config.setting("dir").source.to_string(), "default");
}

#[test]
fn the_ways_to_write_a_value() {
    let check = |file: &str| load(file, &[], &[]).unwrap_or_else(|error| panic!("{file}:\n{error}"));
    assert_eq!(check("memory = 536870912").memory_bytes, 512 << 20);
    assert_eq!(check("memory = 0x2000_0000").memory_bytes, 512 << 20);
    assert_eq!(check("memory = '512MiB'").memory_bytes, 512 << 20);
    assert_eq!(check("cores = [1]").broker.cores, [1]);
    assert_eq!(check("cores = '0-1'").broker.cores, [0, 1]);
    assert_eq!(check("cores = 1").broker.cores, [1]);
    assert!(check("insecure = true").broker.insecure);
    assert_eq!(check("admin.listen = 'off'").admin.listen, None);
    assert_eq!(check("[admin]\nlisten = 'off'").admin.listen, None);
    assert_eq!(check("admin = { listen = 'off' }").admin.listen, None);
    assert_eq!(check("insecure = true\nlisten = '0.0.0.0:9092'").broker.listen.port(), 9092);
}

#[test]
fn an_unknown_setting_is_shown_with_its_nearest_name() {
    refused(
        "# a comment\n\n[admin]\nlisen = 'off'\n",
        &[],
        &[],
        "\
error: there is no setting `admin.lisen`
 --> etc/streambus.toml:4:1
  |
4 | lisen = 'off'
  | ^^^^^
  |
  = help: did you mean `admin.listen`?",
    );
    refused(
        "[retention]\nms = 5",
        &[],
        &[],
        "\
error: there is no setting `retention`
 --> etc/streambus.toml:1:2
  |
1 | [retention]
  |  ^^^^^^^^^",
    );
    refused(
        "",
        &[("STREAMBUS_MEMROY", "1 GiB")],
        &[],
        "\
error: there is no setting `STREAMBUS_MEMROY`
 |
 = help: did you mean `STREAMBUS_MEMORY`?",
    );
}

#[test]
fn variables_of_an_orchestrator_are_none_of_our_business() {
    let environment = [("STREAMBUS_SERVICE_HOST", "10.0.0.1"), ("STREAMBUS_PORT_9092_TCP", "tcp://10.0.0.1:9092")];
    load("", &environment, &[]).expect("ignored");
}

#[test]
fn a_wrong_value_is_shown_with_its_range() {
    refused(
        "idle_timeout = 5",
        &[],
        &[],
        "\
error: `idle_timeout`: \"5\" is not a time from 1 s to 1 d: it has no unit: us, ms, s, min, h or d
 --> etc/streambus.toml:1:16
  |
1 | idle_timeout = 5
  |                ^",
    );
    refused(
        "",
        &[("STREAMBUS_BATCH_BYTES_MAX", "1 KB")],
        &[],
        "error: `batch_bytes_max`: \"1 KB\", from STREAMBUS_BATCH_BYTES_MAX, is not a size from 1 KiB to 64 MiB",
    );
    refused(
        "listen = ['127.0.0.1:1']",
        &[],
        &[],
        "\
error: `listen`: \"['127.0.0.1:1']\" is not an IP address and port
 --> etc/streambus.toml:1:10
  |
1 | listen = ['127.0.0.1:1']
  |          ^^^^^^^^^^^^^^^",
    );
    refused(
        "",
        &[],
        &[("cores", "0-3")],
        "error: `cores`: \"0-3\", from --cores, names core 2, but this process may use only [0, 1]",
    );
}

#[test]
fn broken_toml_is_shown_where_it_breaks() {
    let error = load("listen = \n", &[], &[]).expect_err("must be refused");
    assert!(error.contains("--> etc/streambus.toml:1:"), "{error}");
    for text in ["=", "[", "a = \"", "[a]\n[a]", "x = 1\nx = 2", "ä = 1\n=", "\n\n=", "a=1e400\n["] {
        load(text, &[], &[]).expect_err("must be refused");
    }
}

#[test]
fn all_problems_are_shown_at_once() {
    let error = load("idle = 1\nlisten = 'x'", &[], &[("node.id", "0")]).expect_err("must be refused");
    assert_eq!(error.matches("error: ").count(), 3, "{error}");
}

#[test]
fn an_open_listener_must_be_spelled_out() {
    refused(
        "listen = '0.0.0.0:9092'",
        &[],
        &[],
        "\
error: `listen = 0.0.0.0:9092` (etc/streambus.toml:1) and `insecure = false` (default) do not go together: \
there is no authentication yet, so whoever reaches that address may read and write everything
 --> etc/streambus.toml:1:10
  |
1 | listen = '0.0.0.0:9092'
  |          ^^^^^^^^^^^^^^ listen
  |
  = help: use a loopback address such as 127.0.0.1, or accept that with `insecure = true`",
    );
    let error = load("", &[], &[("admin.listen", "[::]:9640")]).expect_err("must be refused");
    assert!(error.contains("`admin.listen = [::]:9640` (--admin-listen) and `insecure = false` (default)"), "{error}");
    load("", &[], &[("listen", "[::1]:9092")]).expect("loopback needs nothing");
}

#[test]
fn too_little_memory_is_refused_with_the_figure() {
    let error = load("", &[], &[("memory", "100 MiB")]).expect_err("must be refused");
    assert!(error.contains("100 MiB for 2 cores is less than 64 MiB a core"), "{error}");
    assert!(error.contains("set memory to at least 128 MiB"), "{error}");
    load("", &[], &[("memory", "128 MiB")]).expect("exactly enough");
    let error = load("", &[], &[("memory", "134217727")]).expect_err("a byte less");
    assert!(error.contains("less than 64 MiB a core"), "{error}");
    let small = Machine { cores: vec![0, 1], memory_bytes: 100 << 20 };
    let error = Config::load(&Inputs::default(), &small).expect_err("must be refused").to_string();
    assert!(error.contains("2 cores need 128 MiB; this machine (or cgroup) has"), "{error}");
}

#[test]
fn pairs_that_do_not_go_together() {
    let check = |flags: &[(&str, &str)], first: &str, second: &str| {
        let error = load("", &[], flags).expect_err("must be refused");
        assert!(error.contains(&format!("`{first} = ")) && error.contains(&format!("`{second} = ")), "{error}");
        assert!(error.contains("do not go together"), "{error}");
    };
    check(&[("listen", "127.0.0.1:9640")], "listen", "admin.listen");
    check(&[("batch_bytes_max", "16 MiB")], "batch_bytes_max", "frame_bytes_max");
    check(&[("frame_bytes_max", "17 MiB"), ("memory", "128 MiB")], "frame_bytes_max", "memory");
}

proptest! {
    /// Whatever a person saves, the answer is a configuration or an explanation.
    #[test]
    fn no_file_is_beyond_an_answer(
        cuts in prop::collection::vec((any::<prop::sample::Index>(), any::<char>()), 1..5),
    ) {
        let mut text: Vec<char> = config::sample().chars().collect();
        for (index, replacement) in cuts {
            let at = index.index(text.len());
            text[at] = replacement;
        }
        let text: String = text.into_iter().collect();
        if let Err(error) = load(&text, &[], &[]) {
            prop_assert!(error.starts_with("error: "), "{error}");
        }
    }

    #[test]
    fn no_text_is_beyond_an_answer(text in "[\\[\\]a-c.='\"#\n0-9 ä{}]{0,40}") {
        let _ = load(&text, &[], &[]);
    }
}
