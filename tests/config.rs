//! The configuration's contract: the reference file stays true, and a bad file is answered with a place, a key and a way out.

#![allow(clippy::unwrap_used, reason = "what a test cannot go on without ends it")]

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::time::Duration;

use pgmoor::config::{
    Absent, AuthMethod, ClientTls, Config, ConfigError, Databases, Discovery, Preset, Secret, ServerTls, Users, keys,
};

const REFERENCE: &str = include_str!("../config/pgmoor.toml");
const USERS: &str = include_str!("../config/users.toml");

/// The shortest file that is right.
const LEAST: &str = r#"
[listen]
rw = "0.0.0.0:5432"
[auth]
method = "trust"
[[cluster]]
name = "orders"
discovery.fixed = ["10.0.0.1:5432"]
probe.user = "pgmoor"
"#;

fn env(name: &str) -> Option<String> {
    match name {
        "APP_PASSWORD" => Some("secret".to_owned()),
        "PORT" => Some("6432".to_owned()),
        _ => None,
    }
}

fn files(path: &Path) -> io::Result<String> {
    match path.to_str() {
        Some("/etc/pgmoor/users.toml") => Ok(USERS.to_owned()),
        Some("/etc/pgmoor/bad-users.toml") => Ok("[[user]]\nname = \"app\"\n".to_owned()),
        Some("/etc/pgmoor/password") => Ok("from a file\n".to_owned()),
        Some("/etc/pgmoor/empty") => Ok("\n".to_owned()),
        _ => Err(io::Error::new(io::ErrorKind::NotFound, "no such file")),
    }
}

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, "/etc/pgmoor/pgmoor.toml", &env, &files)
}

fn parse_users(text: &str) -> Result<Users, ConfigError> {
    Users::parse(text, "/etc/pgmoor/users.toml", &env, &files)
}

/// Every `key = value` of the reference with its sections; those that are commented out as well, marked false.
fn written() -> BTreeMap<String, (String, bool)> {
    let mut section = String::new();
    let mut found = BTreeMap::new();
    for line in REFERENCE.lines() {
        let (text, live) = match line.strip_prefix("# ") {
            Some(rest) => (rest, false),
            None => (line, true),
        };
        if live && text.starts_with('[') {
            section = text.trim_matches(['[', ']']).to_owned();
            continue;
        }
        let Some((name, value)) = text.split_once(" = ") else {
            continue;
        };
        if name.chars().all(|letter| letter.is_ascii_lowercase() || letter == '_') {
            let key = format!("{section}.{name}");
            let twice = found.insert(key, (value.to_owned(), live)).is_some();
            assert!(!twice, "{section}.{name} stands twice");
        }
    }
    found
}

#[test]
fn the_reference_is_a_good_file() {
    let config = parse(REFERENCE).unwrap();
    assert_eq!(config.auth.method, AuthMethod::Scram);
    assert!(matches!(config.auth.users.secret("app"), Some(Secret::Password(word)) if word.reveal() == "secret"));
    assert_eq!(config.clusters[0].databases, Databases::Every);
    assert!(matches!(&config.clusters[0].discovery, Discovery::Kubernetes(it) if it.preset == Preset::Patroni));
}

#[test]
fn the_reference_has_every_key_with_its_default_and_no_other() {
    let written = written();
    for (key, what) in keys() {
        let Some((value, live)) = written.get(&key) else {
            panic!("config/pgmoor.toml does not have {key}");
        };
        if let Absent::Means(default) = what.absent {
            assert!(*live, "{key} has a default, yet is commented out");
            assert_eq!(value, default, "{key}");
        }
    }
    let known: BTreeSet<String> = keys().map(|(key, _)| key).collect();
    for key in written.keys() {
        assert!(known.contains(key), "config/pgmoor.toml has {key}, which is no key");
    }
}

#[test]
fn what_the_reference_leaves_out_is_what_it_shows() {
    // Writing all the defaults changes nothing: so the defaults of the table are those that hold.
    let least = parse(LEAST).unwrap();
    let reference = parse(REFERENCE).unwrap();
    assert_eq!(least.limits, reference.limits);
    assert_eq!(least.pool, reference.pool);
    assert_eq!(least.continuity, reference.continuity);
    assert_eq!(least.routing, reference.routing);
    assert_eq!(least.log, reference.log);
    assert_eq!(least.tls, reference.tls);
    assert_eq!(least.listen.admin, reference.listen.admin);
    assert_eq!(least.clusters[0].lag_limit, least.routing.lag_limit);
    assert_eq!(least.clusters[0].probe, reference.clusters[0].probe);
    assert_eq!(least.clusters[0].tls, reference.clusters[0].tls);
}

#[test]
fn the_commented_keys_of_the_reference_work_too() {
    let text = REFERENCE
        .replace("mode = \"off\"", "mode = \"require\"")
        .replace("mode = \"disable\"", "mode = \"verify-full\"")
        .replace("# cert =", "cert =")
        .replace("# key =", "key =")
        .replace("# client_ca =", "client_ca =")
        .replace("# users =", "users =")
        .replace("# lag_limit = \"10s\"", "lag_limit = \"3s\"")
        .replace("# kubeconfig =", "kubeconfig =")
        .replace("# context =", "context =")
        .replace("# leader =", "leader =")
        .replace("# password_file = \"/run/secrets/pgmoor/probe-password\"", "password_file = \"password\"")
        .replace("# ca =", "ca =")
        .replace("# dns =", "dns =");
    let config = parse(&text).unwrap();
    let cluster = &config.clusters[0];
    assert!(matches!(&config.tls, ClientTls::Require(files) if files.client_ca.is_some()));
    assert_eq!(cluster.tls.pod_dns(&"pg-1".into()).as_deref(), Some("pg-1.orders.db.svc"));
    assert_eq!(cluster.lag_limit, Duration::from_secs(3));
    assert_eq!(cluster.probe.password.as_ref().map(|word| word.reveal()), Some("from a file"));
    assert!(cluster.admits("app") && !cluster.admits("stranger"));
    let Discovery::Kubernetes(kubernetes) = &cluster.discovery else {
        panic!("{cluster:?}");
    };
    assert_eq!(kubernetes.leader.as_deref(), Some("orders-leader"));
    assert_eq!(kubernetes.context.as_deref(), Some("prod"));
}

#[test]
fn a_named_database_goes_before_every_database() {
    let text = format!(
        "{LEAST}\n[[cluster]]\nname = \"stock\"\ndatabases = [\"stock\", \"bins\"]\ndiscovery.fixed = [\"a=[::1]:1\", \"b=pg.example:2\"]\nprobe = {{ user = \"p\" }}\ntls.mode = \"prefer\"\n"
    );
    let config = parse(&text).unwrap();
    let name = |database| config.database_cluster(database).map(|cluster| cluster.name.as_str());
    assert_eq!((name("stock"), name("bins"), name("shop")), (Some("stock"), Some("stock"), Some("orders")));
    assert_eq!(config.clusters[1].tls, ServerTls::Prefer);
    let Discovery::Fixed(pods) = &config.clusters[1].discovery else {
        panic!("{:?}", config.clusters[1]);
    };
    assert_eq!((pods[0].name.as_str(), pods[0].host.as_str(), pods[0].port), ("a", "::1", 1));
    assert_eq!((pods[1].name.as_str(), pods[1].host.as_str(), pods[1].port), ("b", "pg.example", 2));

    let only = parse(&LEAST.replace("name = ", "databases = \"shop\"\nname = ")).unwrap();
    assert!(only.database_cluster("stock").is_none());
}

#[test]
fn patroni_is_where_it_is_expected_or_written() {
    let fixed = |more: &str| parse(&LEAST.replace("probe.user", &format!("{more}\nprobe.user"))).unwrap();
    assert_eq!(fixed("").clusters[0].patroni, None, "a list may be anybody's");
    let written = fixed("patroni = { user = \"admin\", password_file = \"password\", ca = \"ca.crt\" }");
    let patroni = written.clusters[0].patroni.as_ref().unwrap();
    let (user, password) = patroni.login.as_ref().unwrap();
    assert_eq!((patroni.port, user.as_str(), password.reveal()), (8008, "admin", "from a file"));
    assert_eq!(patroni.ca.as_deref(), Some(Path::new("/etc/pgmoor/ca.crt")));
    let without = ["cloudnative-pg", "crunchy", "percona", "kubeblocks", "none"];
    for preset in Preset::ALL.map(Preset::as_str) {
        let kubernetes = format!("kubernetes = {{ namespace = \"db\", selector = \"a=b\", preset = \"{preset}\" }}");
        let text = LEAST.replace("fixed = [\"10.0.0.1:5432\"]", &kubernetes);
        let config = parse(&text).unwrap();
        assert_eq!(config.clusters[0].patroni.is_none(), without.contains(&preset), "{preset}");
    }
    let token = parse(&LEAST.replace("[auth]", "admin_token_file = \"password\"\n[auth]")).unwrap().listen.admin_token;
    assert_eq!(token.as_ref().map(|token| token.reveal()), Some("from a file"));
}

#[test]
fn several_addresses_and_variables() {
    let text = LEAST.replace("\"0.0.0.0:5432\"", "[\"127.0.0.1:${PORT}\", \"[::1]:${PORT}\"]\nadmin = []");
    let listen = parse(&text).unwrap().listen;
    let shown: Vec<String> = listen.rw.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["127.0.0.1:6432", "[::1]:6432"]);
    assert!(listen.admin.is_empty());
}

/// The least file with one piece of it replaced → what is said about it, after the file's name.
const BAD: &[(&str, &str, &str)] = &[
    ("[listen]", "[listen", r"2:8: unclosed table, expected `]`"),
    ("\"0.0.0.0:5432\"", "\"0.0.0.0\"", r#"3:6: listen.rw: "0.0.0.0" has no port; write it as "0.0.0.0:5432""#),
    ("\"0.0.0.0:5432\"", "\"::1\"", r#"3:6: listen.rw: "::1" has no port; write it as "[::1]:5432""#),
    (
        "\"0.0.0.0:5432\"",
        "\"localhost:5432\"",
        r#"3:6: listen.rw: "localhost:5432" is not an IP address with a port; write it as "0.0.0.0:5432""#,
    ),
    ("\"0.0.0.0:5432\"", "5432", r"3:6: listen.rw: must be a string or a list of strings, not an integer"),
    (
        "\"0.0.0.0:5432\"",
        "[\"0.0.0.0:1\", \"0.0.0.0:1\"]",
        r"3:20: listen.rw: 0.0.0.0:1 is given twice; every address is one door",
    ),
    ("\"0.0.0.0:5432\"", "\"0.0.0.0:${PROT}\"", r"3:6: listen.rw: the environment variable PROT is not set"),
    (
        "\"0.0.0.0:5432\"",
        "\"0.0.0.0:${PORT\"",
        r"3:6: listen.rw: has a `${` without its `}`; write `$${` for the characters themselves",
    ),
    ("rw = \"0.0.0.0:5432\"", "", r#"2:1: listen: neither rw nor ro has an address; write rw = "0.0.0.0:5432""#),
    ("rw = ", "auto = ", r"3:1: listen.auto: comes with a later version; leave it out for now"),
    ("[auth]", "admin_token_file = \"empty\"\n[auth]", r"4:20: listen.admin_token_file: /etc/pgmoor/empty is empty"),
    ("rw = ", "rww = ", r"3:1: listen.rww: is not a key; did you mean `rw`?"),
    ("[auth]", "[pool]\nsize = 0\n[auth]", r"5:8: pool.size: 0 is out of range; write a number from 1 to 1000000"),
    (
        "[auth]",
        "[pool]\nmode = \"statement\"\n[auth]",
        r#"5:8: pool.mode: "statement" is not one of "transaction", "session""#,
    ),
    ("[auth]", "[pool]\nmin = 30\n[auth]", r"5:7: pool.min: 30 is more than pool.size (20), of which it is a part"),
    (
        "[auth]",
        "[tls]\nmode = \"require\"\n[auth]",
        r#"4:1: tls.cert: is missing, and this mode needs it; write cert = "tls.crt""#,
    ),
    (
        "[auth]",
        "[tls]\ncert = \"tls.crt\"\n[auth]",
        r#"5:8: tls.cert: is of no use with mode = "off"; write mode = "prefer" or "require", or leave it out"#,
    ),
    ("[auth]", "[tls]\nmode = \"yes\"\n[auth]", r#"5:8: tls.mode: "yes" is not one of "off", "prefer", "require""#),
    (
        "[auth]",
        "[limits]\nsessions = 0\n[auth]",
        r"5:12: limits.sessions: 0 is out of range; write a number from 1 to 1000000",
    ),
    ("[auth]", "[limits]\nsessions = \"many\"\n[auth]", r"5:12: limits.sessions: must be a whole number, not a string"),
    (
        "[auth]",
        "[limits]\nmessage_size = \"64KB\"\n[auth]",
        r#"5:16: limits.message_size: "64KB" is not a size; write it as "512B", "64KiB", "1MiB" or "1GiB""#,
    ),
    (
        "[auth]",
        "[limits]\nmessage_size = \"2GiB\"\n[auth]",
        r#"5:16: limits.message_size: "2GiB" is out of range; write a size from "64KiB" to "1GiB""#,
    ),
    ("[auth]", "[limits]\nlogin_timeout = \"0s\"\n[auth]", r"5:17: limits.login_timeout: must be longer than nothing"),
    (
        "[auth]",
        "[continuity]\nhold = 30\n[auth]",
        r#"5:8: continuity.hold: "30" has no unit; write it as "30s" (ms, s, m or h)"#,
    ),
    (
        "[auth]",
        "[continuity]\nhold = true\n[auth]",
        r#"5:8: continuity.hold: must be a duration such as "10s", not a boolean"#,
    ),
    ("[auth]", "[continuity]\nask = \"yes\"\n[auth]", r"5:7: continuity.ask: must be true or false, not a string"),
    ("[auth]", "[continuity]\nhodl = \"30s\"\n[auth]", r"5:1: continuity.hodl: is not a key; did you mean `hold`?"),
    ("[auth]", "[limits]\nhold = \"30s\"\n[auth]", r"5:1: limits.hold: is not a key here; it belongs in [continuity]"),
    (
        "[auth]",
        "[continuity]\nrelease_start = 100\n[auth]",
        r"5:17: continuity.release_start: 100 is more than continuity.release_max (64); it is where the rise to release_max begins",
    ),
    (
        "[auth]",
        "[log]\nlevel = \"loud\"\n[auth]",
        r#"5:9: log.level: "loud" is not one of "error", "warn", "info", "debug", "trace""#,
    ),
    ("[auth]", "log = 3\n[auth]", r"4:1: listen.log: is not a key here; it belongs at the top of the file"),
    (
        "\"trust\"",
        "\"cert\"",
        r#"5:10: auth.method: "cert" comes with a later version; write "scram-sha-256" with tls.client_ca for now"#,
    ),
    ("\"trust\"", "\"md5\"", r#"5:10: auth.method: "md5" is not one of "scram-sha-256", "trust""#),
    (
        "method = \"trust\"",
        "",
        r#"4:1: auth.users_file: is missing, and auth.method = "scram-sha-256" needs it; write users_file = "users.toml""#,
    ),
    (
        "method = \"trust\"",
        "users_file = \"gone.toml\"",
        r"5:14: auth.users_file: /etc/pgmoor/gone.toml cannot be read: no such file",
    ),
    ("[[cluster]]", "[cluster]", r"6:1: cluster: there may be several; write it as [[cluster]]"),
    ("name = \"orders\"", "", r#"6:1: cluster.name: is missing; write name = "orders""#),
    ("name = \"orders\"", "name = \"\"", r"7:8: cluster.name: is empty"),
    (
        "name = \"orders\"",
        "name = \"orders\"\ndatabases = []",
        r#"8:13: cluster.databases: is empty; write the databases' names, or ["*"] for every one"#,
    ),
    (
        "name = \"orders\"",
        "name = \"orders\"\ndatabases = [\"*\", \"a\"]",
        r#"8:13: cluster.databases: "*" stands for every database; write it alone"#,
    ),
    (
        "name = \"orders\"",
        "name = \"orders\"\ndatabases = [\"pgmoor\"]",
        r#"8:14: cluster.databases: "pgmoor" is the name of pgmoor's own console"#,
    ),
    (
        "name = \"orders\"",
        "name = \"orders\"\npatroni = { user = \"admin\" }",
        r"8:11: cluster.patroni.password: is missing, and user is written",
    ),
    (
        "name = \"orders\"",
        "name = \"orders\"\npatroni = { password = \"x\" }",
        r"8:11: cluster.patroni.user: is missing, and a password is written",
    ),
    (
        "name = \"orders\"",
        "name = \"orders\"\npatroni = { port = 0 }",
        r"8:20: cluster.patroni.port: 0 is out of range; write a number from 1 to 65535",
    ),
    (
        "name = \"orders\"\ndiscovery.fixed = [\"10.0.0.1:5432\"]",
        "name = \"orders\"\npatroni.port = 8009\ndiscovery.kubernetes = { namespace = \"db\", selector = \"a=b\", preset = \"crunchy\" }",
        r#"8:1: cluster.patroni: is of no use with preset = "crunchy": ask that operator itself for a switchover"#,
    ),
    (
        "name = \"orders\"",
        "name = \"orders\"\nusers = []",
        r"8:9: cluster.users: is empty, so nobody could log in; write names, or leave it out for every user",
    ),
    (
        "discovery.fixed = [\"10.0.0.1:5432\"]",
        "",
        r#"6:1: cluster.discovery: is missing; write discovery.kubernetes = { ... } or discovery.fixed = ["10.0.0.1:5432"]"#,
    ),
    ("[\"10.0.0.1:5432\"]", "[]", r#"8:19: cluster.discovery.fixed: is empty; write at least one "10.0.0.1:5432""#),
    (
        "[\"10.0.0.1:5432\"]",
        "[\"10.0.0.1\"]",
        r#"8:20: cluster.discovery.fixed: "10.0.0.1" has no port; write it as "10.0.0.1:5432""#,
    ),
    (
        "[\"10.0.0.1:5432\"]",
        "[\"::1:x\"]",
        r#"8:20: cluster.discovery.fixed: "::1:x" is not an address; write it as "10.0.0.1:5432" or "pg-0=10.0.0.1:5432""#,
    ),
    (
        "[\"10.0.0.1:5432\"]",
        "[\"a=h:1\", \"a=h:2\"]",
        r#"8:29: cluster.discovery.fixed: "a" is given twice; every pod has a name of its own"#,
    ),
    (
        "fixed = [\"10.0.0.1:5432\"]",
        "kubernetes = { namespace = \"db\", selector = \"a=b\", preset = \"patrony\" }",
        r#"8:71: cluster.discovery.kubernetes.preset: "patrony" is not one of "patroni", "zalando", "cloudnative-pg", "crunchy", "percona", "stackgres", "kubeblocks", "none""#,
    ),
    (
        "fixed = [\"10.0.0.1:5432\"]",
        "kubernetes = { namespace = \"db\", preset = \"none\" }",
        r#"8:24: cluster.discovery.kubernetes.selector: is missing; write selector = "cluster-name=orders""#,
    ),
    (
        "fixed = [\"10.0.0.1:5432\"]",
        "kubernetes = { namespace = \"db\", selector = \"a=b\", preset = \"none\", leader = \"x\" }",
        r#"8:88: cluster.discovery.kubernetes.leader: is of no use with preset = "none", which has no leader object; leave it out"#,
    ),
    (
        "fixed = [\"10.0.0.1:5432\"]",
        "kubernetes = { namespace = \"db\", selector = \"a=b\", preset = \"none\", ports = 1 }",
        r"8:79: cluster.discovery.kubernetes.ports: is not a key; did you mean `port`?",
    ),
    ("probe.user = \"pgmoor\"", "", r#"6:1: cluster.probe.user: is missing; write user = "pgmoor""#),
    (
        "probe.user = \"pgmoor\"",
        "probe = { user = \"p\", password = \"a\", password_file = \"b\" }",
        r"9:55: cluster.probe.password_file: stands beside `password`; leave one of them out",
    ),
    (
        "probe.user = \"pgmoor\"",
        "probe = { user = \"p\", password_file = \"empty\" }",
        r"9:39: cluster.probe.password_file: /etc/pgmoor/empty is empty",
    ),
    ("probe.user = \"pgmoor\"", "probe = 3", r"9:9: cluster.probe: is a section, not a value"),
    (
        "probe.user",
        "tls = { mode = \"verify-ca\" }\nprobe.user",
        r#"9:7: cluster.tls.ca: is missing, and this mode needs it; write ca = "ca.crt""#,
    ),
    (
        "probe.user",
        "tls = { mode = \"require\", ca = \"x\" }\nprobe.user",
        r#"9:32: cluster.tls.ca: is of no use with this mode; write mode = "verify-full", or leave it out"#,
    ),
    (
        "probe.user",
        "tls = { mode = \"verify-full\", ca = \"x\", dns = \"pg\" }\nprobe.user",
        r#"9:47: cluster.tls.dns: "pg" has no {pod} in it, so every pod would have the same name; write it as "{pod}.pg.db.svc""#,
    ),
    (
        "[[cluster]]",
        "[[cluster]]\nname = \"orders\"\ndatabases = \"shop\"\ndiscovery.fixed = \"h:1\"\nprobe.user = \"p\"\n[[cluster]]",
        r#"12:8: cluster.name: "orders" is given twice"#,
    ),
    (
        "[[cluster]]",
        "[[cluster]]\nname = \"stock\"\ndiscovery.fixed = \"h:1\"\nprobe.user = \"p\"\n[[cluster]]",
        r#"10:1: cluster.databases: "*" is served by the cluster "stock" already; name the databases of each"#,
    ),
];

#[test]
fn a_bad_file_is_answered_with_a_place_a_key_and_a_way_out() {
    parse(LEAST).unwrap();
    let mut wrong = Vec::new();
    for (piece, replacement, expected) in BAD {
        assert!(LEAST.contains(piece), "{piece}");
        let said = match parse(&LEAST.replacen(piece, replacement, 1)) {
            Ok(config) => format!("taken for good: {config:?}"),
            Err(error) => error.to_string(),
        };
        if said != format!("/etc/pgmoor/pgmoor.toml:{expected}") {
            wrong.push(format!("{replacement}\n  said     {said}\n  expected {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn there_must_be_a_cluster() {
    let text = LEAST.split("[[cluster]]").next().unwrap();
    assert_eq!(
        parse(text).unwrap_err().to_string(),
        "/etc/pgmoor/pgmoor.toml:1:1: cluster: there is none; write a [[cluster]] section"
    );
}

#[test]
fn a_fault_in_the_users_file_is_found_there() {
    let text = LEAST.replace("method = \"trust\"", "users_file = \"bad-users.toml\"");
    assert_eq!(
        parse(&text).unwrap_err().to_string(),
        "/etc/pgmoor/bad-users.toml:1:1: user: has no secret; write password, password_file or secret"
    );
    let cases = [
        ("", "1:1: user: there is none; write a [[user]] section"),
        (
            "[[user]]\nname = \"a\"\nsecret = \"md5\"",
            "3:10: user.secret: is not of the form SCRAM-SHA-256$4096:salt$stored:server",
        ),
        (
            "[[user]]\nname = \"a\"\npassword = \"x\"\nsecret = \"y\"",
            "4:10: user.secret: stands beside a password; leave one of them out",
        ),
        (
            "[[user]]\nname = \"a\"\npassword = \"x\"\n[[user]]\nname = \"a\"\npassword = \"y\"",
            "5:8: user.name: \"a\" is given twice",
        ),
        ("[[user]]\nname = \"a\"\npasword = \"x\"", "3:1: user.pasword: is not a key; did you mean `password`?"),
    ];
    for (text, expected) in cases {
        let said = parse_users(text).unwrap_err().to_string();
        assert_eq!(said, format!("/etc/pgmoor/users.toml:{expected}"), "{text}");
    }
}

#[test]
fn the_commented_users_of_the_reference_work_too() {
    let text = USERS
        .replace("# [[user]]", "[[user]]")
        .replace("# name", "name")
        .replace("# secret", "secret")
        .replace("# password_file = \"/run/secrets/pgmoor/reports\"", "password_file = \"password\"");
    let users = parse_users(&text).unwrap();
    assert_eq!(users.len(), 3);
    assert!(matches!(users.secret("reports"), Some(Secret::Password(word)) if word.reveal() == "from a file"));
    assert!(matches!(users.secret("admin"), Some(Secret::Scram(verifier)) if verifier.iterations == 4096));
}

#[test]
fn a_missing_file_is_named() {
    let error = Config::load(Path::new("/nowhere/pgmoor.toml")).unwrap_err();
    assert!(matches!(&error, ConfigError::Unreadable { file, .. } if file == "/nowhere/pgmoor.toml"), "{error}");
}
