//! The command line asks the running service, acts under the name of the machine's account, and reads the database when nothing listens.

use std::process::Stdio;

use presence_bridge::cloud::store::{Actor, Role};
use presence_bridge::simulator::Tenant;
use presence_bridge::world::WorldSettings;

use crate::support::asker::{Asker, problem, token};
use crate::support::program::{Told, operator, told};
use crate::support::receivers::MailServer;
use crate::support::stage::{Stage, quick, until};

async fn run(stage: &Stage, arguments: &[&str]) -> Told {
    told(stage.folder(), arguments, &[]).await
}

/// What was done on the command line, in order: who, and what.
async fn deeds(stage: &Stage, tenant: Option<&Tenant>) -> Vec<(String, String)> {
    let store = stage.store().await.unwrap();
    let log = store.audit(tenant.map(Tenant::id), None, 500).await;
    store.close().await;
    let log = log.unwrap().into_iter().rev();
    log.filter(|entry| entry.actor_kind == "command-line")
        .map(|entry| (entry.actor, entry.action))
        .collect()
}

fn by(action: &str) -> (String, String) {
    ("operator-of-this-machine".to_owned(), action.to_owned())
}

/// The line about something, its cells one blank apart.
fn line(told: &Told, about: &str) -> String {
    let line = told.out.lines().find(|line| line.contains(about));
    let line = line.unwrap_or_else(|| panic!("{about} is missing in {told:?}"));
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn every_command_takes_effect_on_suites_and_is_entered_under_the_account() {
    let stage = Stage::new(quick()).await;
    let tenant = stage.tenant("alpha.example", 2).await;
    let suite = stage.watching_all(&tenant, "Berlin").await;
    suite.until_all_fresh().await;
    let paused = run(&stage, &["tenant", "pause", "alpha"]).await;
    assert_eq!((paused.code, paused.err.as_str()), (0, ""));
    assert!(paused.out.starts_with("Paused alpha.example ("));
    suite.until_state("suspended").await;
    run(&stage, &["tenant", "resume", "alpha"]).await;
    suite.until_state("connected").await;
    let reads = stage.presence_requests(&tenant);
    assert_eq!(run(&stage, &["tenant", "refresh", "alpha"]).await.code, 0);
    until("presence is read again", || {
        stage.presence_requests(&tenant) > reads
    })
    .await;
    let link = run(&stage, &["tenant", "relink", "alpha", "--days", "2"]).await;
    let pages = stage.web_url().origin().ascii_serialization();
    assert!(link.out.contains(&format!("    {pages}/s/")), "{link:?}");
    let invited = run(&stage, &["suite", "invite", "alpha"]).await;
    assert!(invited.out.contains("presence-agent enroll --cloud"));
    let suites = run(&stage, &["suite", "list", "--json"]).await.json();
    let id = suites["suites"][0]["id"].as_str().unwrap().to_owned();
    let revoked = run(&stage, &["suite", "revoke", &id]).await;
    assert!(revoked.out.starts_with("Revoked Berlin of alpha.example"));
    let cloud = stage.cloud().unwrap();
    until("the stream of the suite has ended", || {
        let figures = cloud.operations().figures();
        figures.get(&tenant.id()).is_none_or(|f| f.streams == 0)
    })
    .await;
    for refused in [
        run(&stage, &["tenant", "offboard", "alpha"]).await,
        run(
            &stage,
            &["tenant", "offboard", "alpha", "--confirm", "alpha"],
        )
        .await,
    ] {
        assert_eq!((refused.code, refused.out.as_str()), (1, ""));
        assert!(refused.err.contains("alpha.example"), "{refused:?}");
    }
    let arguments = ["tenant", "offboard", "alpha", "--confirm", "alpha.example"];
    let receipt = run(&stage, &arguments).await;
    assert!(receipt.out.starts_with("Receipt "), "{receipt:?}");
    assert_eq!(
        deeds(&stage, Some(&tenant)).await,
        [
            "tenant.paused",
            "tenant.resumed",
            "tenant.refreshed",
            "link.made",
            "suite.invited",
            "suite.revoked",
            "tenant.offboarded"
        ]
        .map(by)
    );
}

#[tokio::test]
async fn tables_say_how_the_connection_is_why_and_what_to_do() {
    let stage = Stage::new(quick()).await;
    let well = stage.tenant("alpha.example", 3).await;
    let ill = stage.tenant("beta.example", 2).await;
    let suite = stage.watching_all(&well, "Berlin").await;
    suite.until_all_fresh().await;
    let other = stage.watching_all(&ill, "Paris").await;
    other.until_all_fresh().await;
    ill.withdraw_consent(stage.client_id());
    other.until_state("needs administrator").await;
    let list = run(&stage, &["tenant", "list"]).await;
    let title = "ORGANISATION HEALTH SINCE COVERED READ EVERY SUITES";
    assert!(line(&list, "ORGANISATION").starts_with(title), "{list:?}");
    let of_well = line(&list, "alpha.example");
    assert!(of_well.starts_with("alpha.example connected "), "{of_well}");
    assert!(of_well.contains(" 3 / 3 150 ms 1 / 1 "), "{of_well}");
    assert!(of_well.ends_with(&well.id().to_string()), "{of_well}");
    assert!(line(&list, "beta.example").contains("needs administrator"));
    let of_ill = line(&list, "beta.example");
    assert!(
        of_ill.contains(" not read not read "),
        "neither covered nor read: {of_ill}"
    );
    assert!(list.out.contains("\nbeta.example: ") && list.out.contains("\n  To do: "));
    let narrow = told(stage.folder(), &["tenant", "list"], &[("COLUMNS", "50")]).await;
    assert!(narrow.out.contains("connected") && !narrow.out.contains(&well.id().to_string()));
    for line in narrow.out.lines().take_while(|line| !line.is_empty()) {
        assert!(line.chars().count() <= 50, "{line}");
    }
    let ill = ["tenant", "list", "--health", "needs administrator"];
    assert!(!run(&stage, &ill).await.out.contains("alpha.example"));
    let show = run(&stage, &["tenant", "show", "beta"]).await;
    for fact in ["Health ", "Cause ", "To do ", "Suites "] {
        assert!(show.out.contains(&format!("\n{fact}")), "{fact} {show:?}");
    }
    assert!(line(&show, "Paris").contains("connected"));
    let suites = run(&stage, &["suite", "list"]).await;
    let of_well = line(&suites, "Berlin");
    assert!(of_well.starts_with("Berlin alpha.example connected"));
    assert!(of_well.contains(" 3 presence-agent/"), "{of_well}");
    let audit = run(&stage, &["audit", "--limit", "1"]).await;
    assert_eq!(audit.out.lines().count(), 2, "{audit:?}");
    assert!(audit.err.starts_with("Older ones: --before "));
    run(&stage, &["tenant", "pause", "beta"]).await;
    let narrow = ["audit", "--limit", "1"];
    let narrow = told(stage.folder(), &narrow, &[("COLUMNS", "60")]).await;
    assert!(
        line(&narrow, "tenant.paused").contains("beta.example"),
        "{narrow:?}"
    );
}

#[tokio::test]
async fn programs_get_one_json_value_of_every_command() {
    let stage = Stage::new(quick()).await;
    let tenant = stage.tenant("alpha.example", 1).await;
    let suite = stage.watching_all(&tenant, "Berlin").await;
    suite.until_all_fresh().await;
    for (command, member) in [
        ("tenant list", "tenants"),
        ("tenant show alpha", "history"),
        ("tenant pause alpha", "status"),
        ("tenant resume alpha", "status"),
        ("tenant refresh alpha", "status"),
        ("tenant relink alpha", "url"),
        ("suite invite alpha", "code"),
        ("suite list alpha", "suites"),
        ("alert list --all", "alerts"),
        ("audit", "entries"),
        ("api-token make reports", "token"),
        ("api-token list", "tokens"),
        ("api-token revoke reports", "status"),
        ("tenant offboard alpha --confirm alpha.example", "receipt"),
    ] {
        let mut arguments: Vec<&str> = command.split(' ').collect();
        arguments.push("--json");
        let value = run(&stage, &arguments).await.json();
        assert!(!value[member].is_null(), "{command}: {value}");
    }
    let export = run(&stage, &["audit", "--export"]).await;
    let first: serde_json::Value =
        serde_json::from_str(export.out.lines().next().unwrap()).unwrap();
    assert_eq!(first["action"], "audit.exported");
}

#[tokio::test]
async fn without_a_service_the_database_answers_and_it_is_said() {
    let mut stage = Stage::new(quick()).await;
    let tenant = stage.tenant("alpha.example", 1).await;
    let url = stage.operators_url();
    stage.world.stop_cloud().await;
    let list = run(&stage, &["tenant", "list"]).await;
    assert_eq!(list.code, 0);
    assert!(list.err.contains("nothing listens at"), "{list:?}");
    assert!(line(&list, "alpha.example").starts_with("alpha.example not served "));
    assert!(!list.out.contains("READ EVERY"));
    let paused = run(&stage, &["tenant", "pause", "alpha", "--json"]).await;
    assert_eq!(paused.json()["status"], "suspended");
    assert_eq!(paused.err, "", "a program sees what is missing");
    let resumed = run(&stage, &["tenant", "resume", "alpha"]).await;
    assert!(
        resumed.err.contains("holds from the next start"),
        "{resumed:?}"
    );
    assert!(!resumed.err.contains("is missing"), "{resumed:?}");
    let deeds = deeds(&stage, Some(&tenant)).await;
    assert_eq!(deeds, [by("tenant.paused"), by("tenant.resumed")]);
    // Who has a token wants a service, and no database.
    let token = [("PRESENCE_CLOUD_TOKEN", "pbt_x")];
    let asked = ["tenant", "list", "--url", url.as_str()];
    let elsewhere = told(stage.folder(), &asked, &token).await;
    assert_eq!((elsewhere.code, elsewhere.out.as_str()), (1, ""));
    assert!(elsewhere.err.contains("nothing listens at"));
}

#[tokio::test]
async fn a_token_opens_a_service_elsewhere_and_a_viewers_does_nothing() {
    let stage = Stage::new(quick()).await;
    let tenant = stage.tenant("alpha.example", 1).await;
    let elsewhere = tempfile::tempdir().unwrap();
    let url = stage.operators_url();
    let viewer = token(&stage, Role::Viewer).await;
    let ask = async |arguments: &[&str], token: &str| {
        let url = ["--url", url.as_str()];
        let arguments = [arguments, &url].concat();
        let token = [("PRESENCE_CLOUD_TOKEN", token)];
        told(elsewhere.path(), &arguments, &token).await
    };
    let list = ask(&["tenant", "list", "--json"], &viewer).await.json();
    assert_eq!(list["tenants"][0]["name"], "alpha.example");
    let refused = ask(&["tenant", "pause", "alpha"], &viewer).await;
    assert_eq!(refused.code, 1);
    assert!(refused.err.contains("Use one with the role operator"));
    assert!(deeds(&stage, Some(&tenant)).await.is_empty());
    let wrong = ask(&["tenant", "list"], "pbt_guessed").await;
    assert!(wrong.code == 1 && wrong.err.contains("does not accept this token"));
    let without = ask(&["tenant", "list"], "").await;
    assert!(without.code == 1 && without.err.contains("--url needs a token"));
    let plain = ["tenant", "list", "--url", "http://operators.example.com"];
    let plain = told(elsewhere.path(), &plain, &[("PRESENCE_CLOUD_TOKEN", "x")]).await;
    assert!(
        plain.code == 1 && plain.err.contains("https://"),
        "{plain:?}"
    );
}

#[tokio::test]
async fn a_rotation_of_the_key_file_does_not_disturb_the_command_line() {
    let stage = Stage::new(quick()).await;
    stage.tenant("alpha.example", 1).await;
    for command in ["keys rotate", "tenant list", "keys retire", "tenant list"] {
        let arguments: Vec<&str> = command.split(' ').collect();
        let said = run(&stage, &arguments).await;
        assert_eq!(
            (said.code, said.err.as_str()),
            (0, ""),
            "{command}: {said:?}"
        );
    }
    // Another key file is another service's.
    let key = stage.folder().join("key");
    std::fs::remove_file(&key).unwrap();
    assert_eq!(run(&stage, &["keys", "create"]).await.code, 0);
    let other = Stage::new(quick()).await;
    let config = other.folder().join("cloud.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let foreign = format!("\"{}\"", key.display());
    std::fs::write(&config, text.replace("\"key\"", &foreign)).unwrap();
    let said = run(&other, &["tenant", "list"]).await;
    assert_eq!((said.code, said.out.as_str()), (1, ""), "{said:?}");
    assert!(
        said.err.contains("does not accept the key file"),
        "{said:?}"
    );
}

#[tokio::test]
async fn wrong_use_ends_with_2_and_what_cannot_be_done_with_1() {
    let stage = Stage::new(quick()).await;
    for (command, code) in [
        ("tenant", 2),
        ("tenant pause", 2),
        ("tenant list --health fine", 2),
        ("tenant list --url 127.0.0.1:8444", 2),
        ("suite revoke nonsense", 1),
        ("api-token make x --days 366", 2),
        ("audit --export --json", 2),
        ("tenant pause nobody", 1),
        ("suite revoke 00000000-0000-4000-8000-000000000000", 1),
        ("api-token revoke nobody", 1),
    ] {
        let arguments: Vec<&str> = command.split(' ').collect();
        let said = run(&stage, &arguments).await;
        assert_eq!(
            (said.code, said.out.as_str()),
            (code, ""),
            "{command}: {said:?}"
        );
        assert!(!said.err.is_empty());
    }
}

#[tokio::test]
async fn what_is_mistyped_is_told_with_what_would_be_right() {
    let stage = Stage::new(quick()).await;
    for (command, right) in [
        ("suite revoke nonsense", "presence-cloud suite list"),
        (
            "tenant list --url 127.0.0.1:8444",
            "https://operators.example.com",
        ),
        ("tenant list --url operators.example.com:443", "https://"),
        (
            "tenant list --url https://",
            "https://operators.example.com",
        ),
        ("tenant shw alpha", "'show'"),
        ("tenant list --helth gone", "'--health'"),
    ] {
        let arguments: Vec<&str> = command.split(' ').collect();
        let said = run(&stage, &arguments).await;
        assert!(
            said.code > 0 && said.err.contains(right),
            "{command}: {said:?}"
        );
        assert!(!said.err.contains("without a base"), "{command}: {said:?}");
    }
    let nowhere = tempfile::tempdir().unwrap();
    let said = told(nowhere.path(), &["tenant", "list"], &[]).await;
    assert!(said.err.contains("--config"), "{said:?}");
}

#[tokio::test]
async fn a_suite_is_revoked_by_its_name_if_no_other_has_it() {
    let stage = Stage::new(quick()).await;
    let (alpha, beta) = (
        stage.tenant("alpha.example", 1).await,
        stage.tenant("beta.example", 1).await,
    );
    let store = stage.store().await.unwrap();
    let now = stage.cloud().unwrap().operations().now();
    let until = now.plus(std::time::Duration::from_mins(5));
    for (n, tenant, name) in [
        (1, &alpha, "Berlin"),
        (2, &alpha, "Paris"),
        (3, &beta, "Paris"),
    ] {
        let (code, by) = ([n; 32], Actor::Service);
        let put = store.put_enrolment_code(tenant.id(), code, &by, now, until);
        put.await.unwrap();
        store.enrol(code, &[n; 32], name, now).await.unwrap();
    }
    let revoked = run(&stage, &["suite", "revoke", "berlin"]).await;
    assert!(
        revoked.out.starts_with("Revoked Berlin of alpha.example"),
        "{revoked:?}"
    );
    let again = run(&stage, &["suite", "revoke", "Berlin"]).await;
    assert!(
        again.code == 1 && again.err.contains("no suite"),
        "{again:?}"
    );
    let both = run(&stage, &["suite", "revoke", "Paris"]).await;
    assert!(
        both.code == 1 && both.err.contains("2 suites have that name"),
        "{both:?}"
    );
    let part = run(&stage, &["suite", "revoke", "Par"]).await;
    assert!(part.code == 1 && part.err.contains("no suite"), "{part:?}");
    let left = store.suites(None).await.unwrap();
    assert_eq!(left.iter().filter(|s| s.active).count(), 2);
    store.close().await;
}

#[tokio::test]
async fn programs_get_a_problem_for_what_failed() {
    let mut stage = Stage::new(quick()).await;
    stage.tenant("alpha.example", 1).await;
    stage.tenant("alpine.example", 1).await;
    let viewer = token(&stage, Role::Viewer).await;
    let url = stage.operators_url();
    run(&stage, &["tenant", "pause", "alpha"]).await;
    let fails = async |stage: &Stage, command: &str, token: &str| {
        let arguments: Vec<&str> = command.split(' ').chain(["--json"]).collect();
        let token = [("PRESENCE_CLOUD_TOKEN", token)];
        let said = told(stage.folder(), &arguments, &token).await;
        assert_eq!((said.code, said.out.as_str()), (1, ""), "{said:?}");
        assert_eq!(said.err.lines().count(), 1, "{said:?}");
        let problem: serde_json::Value = serde_json::from_str(&said.err).unwrap();
        let code = problem["code"].as_str().unwrap().to_owned();
        assert_eq!(
            problem["type"],
            format!("urn:presence-bridge:problem:{code}")
        );
        assert!(!problem["title"].is_null() && !problem["detail"].is_null());
        (code, problem["status"].as_u64())
    };
    let elsewhere = format!("tenant pause alpine --url {url}");
    for (command, token, code, status) in [
        ("tenant show nobody", "", "no-such-tenant", None),
        ("tenant show alp", "", "not-clear", None),
        ("tenant refresh alpha", "", "paused", Some(409)),
        (&elsewhere, &viewer, "only-operators", Some(403)),
        (&elsewhere, "pbt_guessed", "not-signed-in", Some(401)),
        ("suite revoke nonsense", "", "failed", None),
    ] {
        let told = fails(&stage, command, token).await;
        assert_eq!(told, (code.to_owned(), status), "{command}");
    }
    stage.world.stop_cloud().await;
    let (code, _) = fails(&stage, &elsewhere, &viewer).await;
    assert_eq!(code, "nobody-there");
    let told = fails(&stage, "tenant refresh alpha", "").await;
    assert_eq!(
        told,
        ("paused".to_owned(), Some(409)),
        "the same from the database"
    );
}

#[tokio::test]
async fn a_service_that_hangs_is_told_with_what_to_do() {
    // Accepts connections by its queue, and never says anything.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let nowhere = tempfile::tempdir().unwrap();
    let token = [("PRESENCE_CLOUD_TOKEN", "pbt_x")];
    let said = told(nowhere.path(), &["tenant", "list", "--url", &url], &token).await;
    assert_eq!((said.code, said.out.as_str()), (1, ""));
    for word in ["does not answer in time", "presence-cloud doctor"] {
        assert!(said.err.contains(word), "{said:?}");
    }
}

#[tokio::test]
async fn what_is_missing_or_too_open_is_told_with_the_command_that_mends_it() {
    let stage = Stage::new(quick()).await;
    let key = stage.folder().join("key");
    let mut mode = std::fs::metadata(&key).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut mode, 0o644);
    std::fs::set_permissions(&key, mode).unwrap();
    let open = run(&stage, &["tenant", "list"]).await;
    let begin = format!("presence-cloud: chmod 600 {}", key.display());
    assert!(open.code == 1 && open.err.starts_with(&begin), "{open:?}");
    std::fs::remove_file(&key).unwrap();
    let missing = run(&stage, &["tenant", "list"]).await;
    assert!(
        missing.code == 1 && missing.err.contains("presence-cloud keys create"),
        "{missing:?}"
    );
    let config = stage.folder().join("cloud.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let text = text.replacen(
        "[operators]",
        "[operators]\npassword_file = \"no-password\"",
        1,
    );
    std::fs::write(&config, text).unwrap();
    let check = run(&stage, &["check", "--offline"]).await;
    assert!(
        check
            .out
            .contains("make it with: presence-cloud operators password"),
        "{check:?}"
    );
}

#[tokio::test]
async fn the_old_words_still_work() {
    let stage = Stage::new(quick()).await;
    stage.tenant("alpha.example", 1).await;
    for command in [
        "tenant suspend alpha",
        "tenant link alpha",
        "tenant remove alpha --yes",
    ] {
        let arguments: Vec<&str> = command.split(' ').collect();
        let (well, said) = operator(stage.folder(), &arguments).await;
        assert!(well, "{command}: {said}");
    }
}

#[tokio::test]
async fn completions_need_no_configuration_and_are_a_script() {
    let nowhere = tempfile::tempdir().unwrap();
    for (shell, word) in [
        ("bash", "complete -F"),
        ("zsh", "#compdef"),
        ("fish", "complete -c"),
    ] {
        let said = told(nowhere.path(), &["completions", shell], &[]).await;
        assert_eq!(said.code, 0);
        assert!(
            said.out.contains(word) && said.out.contains("offboard"),
            "{shell}"
        );
        let offered = said.out.lines().filter(|line| line.contains("opts="));
        let old = offered.filter(|line| line.contains("suspend")).count();
        assert_eq!(old, 0, "old words stay hidden");
    }
    let script = nowhere.path().join("completions.bash");
    let said = told(nowhere.path(), &["completions", "bash"], &[]).await;
    std::fs::write(&script, said.out).unwrap();
    // As a shell asks: what may follow these words, the last of which is begun.
    for (words, offered) in [
        ("presence-cloud ten", "tenant"),
        ("presence-cloud tenant sh", "show"),
        ("presence-cloud alert t", "test"),
        ("presence-cloud api-token re", "revoke"),
        ("presence-cloud suite list --js", "--json"),
    ] {
        let ask = r#"source "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
            _presence__cloud presence-cloud "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"; echo "${COMPREPLY[@]}""#;
        let asked = std::process::Command::new("bash")
            .args(["-c", ask])
            .arg(&script)
            .args(words.split(' '))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&asked.stdout);
        assert_eq!(said.trim(), offered, "{words}: {asked:?}");
    }
}

/// A certificate for that name and its key, in files.
fn certificate(folder: &std::path::Path, name: &str, for_whom: &str) -> [std::path::PathBuf; 2] {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec![for_whom.to_owned()]).unwrap();
    let files = ["crt", "key"].map(|end| folder.join(format!("{name}.{end}")));
    std::fs::write(&files[0], params.self_signed(&key).unwrap().pem()).unwrap();
    std::fs::write(&files[1], key.serialize_pem()).unwrap();
    files
}

#[tokio::test]
async fn a_listener_with_a_certificate_of_its_own_is_trusted_by_that_and_no_other() {
    const NAME: &str = "operators.example";
    let folder = tempfile::tempdir().unwrap();
    let [ours, key] = certificate(folder.path(), "ours", NAME);
    let [other, _] = certificate(folder.path(), "other", NAME);
    let tls = format!(
        "public_url = \"https://{NAME}\"\ncertificate_file = \"{}\"\nprivate_key_file = \"{}\"",
        ours.display(),
        key.display()
    );
    let stage = Stage::new(WorldSettings {
        cloud_keys: vec![("operators", tls)],
        ..quick()
    })
    .await;
    stage.tenant("alpha.example", 1).await;
    let list = run(&stage, &["tenant", "list"]).await;
    assert_eq!((list.code, list.err.as_str()), (0, ""), "{list:?}");
    let doctor = run(&stage, &["doctor"]).await;
    assert_eq!(doctor.code, 0, "{doctor:?}");
    assert!(line(&doctor, "listener: operators").contains("certificate ends"));
    // Somebody else's certificate is no reason to read the database instead.
    let config = stage.folder().join("cloud.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let (ours, other) = (ours.display().to_string(), other.display().to_string());
    std::fs::write(&config, text.replace(&ours, &other)).unwrap();
    let refused = run(&stage, &["tenant", "list"]).await;
    assert_eq!((refused.code, refused.out.as_str()), (1, ""), "{refused:?}");
    assert!(refused.err.contains("certificate"), "{refused:?}");
    let trusted = run(&stage, &["tenant", "list", "--ca-file", &ours]).await;
    assert_eq!(trusted.code, 0, "{trusted:?}");
}

#[tokio::test]
async fn a_link_that_is_sent_by_mail_is_not_told_and_its_address_is_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let mail = MailServer::start(folder.path(), None);
    let smtp = format!(
        "host = \"127.0.0.1\"\nport = {}\nsecurity = \"none\"\nfrom = \"Presence <presence@cloud.example>\"",
        mail.port
    );
    let stage = Stage::new(WorldSettings {
        cloud_keys: vec![("smtp", smtp)],
        ..quick()
    })
    .await;
    let tenant = stage.tenant("alpha.example", 1).await;
    let to = [
        "tenant",
        "relink",
        "alpha",
        "--email",
        "adele@customer.example",
    ];
    let sent = run(&stage, &to).await;
    assert!(
        sent.out.starts_with("A link to the status page"),
        "{sent:?}"
    );
    assert!(!sent.out.contains("/s/"), "{sent:?}");
    until("the mail is there", || mail.taken().len() == 1).await;
    let asker = Asker::of(&stage, Role::Operator).await;
    let path = format!("/tenants/{}/send-link", tenant.id());
    let nonsense = asker.post(&path, r#"{"email":"adele"}"#).await;
    assert_eq!(problem(&nonsense, 400), "bad-address");
    assert_eq!(
        deeds(&stage, Some(&tenant)).await,
        [by("link.made"), by("link.sent")]
    );
    let log = run(&stage, &["audit", "--export"]).await;
    assert!(log.out.contains("customer.example") && !log.out.contains("adele"));
}
