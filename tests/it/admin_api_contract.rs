//! The admin API is what its description says: no address more and none less, every answer of the described form, also for a tool
//! that tries to find a request for which it is not.

use std::collections::BTreeSet;
use std::process::Command;

use http::Method;
use jsonschema::Draft;
use presence_bridge::cloud::operators::api;
use presence_bridge::cloud::store::Role;
use presence_bridge::world::WorldSettings;
use serde_json::{Value, json};

use crate::support::asker::{self, Asker, token};
use crate::support::stage::{Stage, quick};
use crate::support::visitor::Page;

/// The tenant and the suite of the description's examples.
const TENANT: &str = "22222222-2222-4222-8222-222222222222";
const SUITE: &str = "5a8cfc30-a8bc-4b53-b991-79959384169f";

/// How many requests are made up for each operation, at most.
const MADE_UP: &str = "40";

/// Written as what it is in JSON Schema, and closed: no answer holds what is not described.
fn description() -> Value {
    let mut root: Value = serde_norway::from_str(api::DESCRIPTION).unwrap();
    let schemas = root["components"]["schemas"].as_object_mut().unwrap();
    for (name, schema) in schemas {
        let holds_members = schema["type"] == "object" || !schema["allOf"].is_null();
        // What others are made of is closed by them.
        if holds_members && !["TenantFields", "Problem"].contains(&name.as_str()) {
            schema["unevaluatedProperties"] = json!(false);
        }
    }
    root
}

fn resolve<'a>(root: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str() {
        Some(reference) => root.pointer(&reference[1..]).unwrap(),
        None => value,
    }
}

fn conforms(root: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    let document = json!({ "components": root["components"], "allOf": [schema] });
    let options = jsonschema::options().with_draft(Draft::Draft202012);
    let validator = options.should_validate_formats(true).build(&document);
    validator
        .unwrap()
        .validate(value)
        .map_err(|e| format!("{}: {e}", e.instance_path()))
}

/// Judges an answer to an operation.
fn judge(root: &Value, method: &str, template: &str, page: &Page) {
    let what = format!("{method} {template} {}", page.status);
    let operation = &root["paths"][template][method];
    let response = &operation["responses"][page.status.to_string()];
    assert!(
        !response.is_null(),
        "{what} is not described: {}",
        page.body
    );
    let response = resolve(root, response);
    let Some(content) = response["content"].as_object() else {
        assert_eq!(page.body, "", "{what}");
        return;
    };
    let described = content.get(&page.header("content-type"));
    let described = described.unwrap_or_else(|| panic!("{what}: {}", page.header("content-type")));
    if page.header("content-type").ends_with("json") && !page.header("content-type").contains("nd")
    {
        let verdict = conforms(root, &described["schema"], &asker::json(page));
        verdict.unwrap_or_else(|e| panic!("{what}: {e}\n{}", page.body));
    }
    for (name, header) in response["headers"].as_object().into_iter().flatten() {
        let needed = header["required"] == true || header["$ref"].is_string();
        assert!(!needed || !page.header(name).is_empty(), "{what}: {name}");
    }
}

#[tokio::test]
async fn every_route_is_described_and_every_described_route_is_there() {
    let root = description();
    let described: BTreeSet<&str> = root["paths"]
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(api::paths().into_iter().collect::<BTreeSet<_>>(), described);
    let stage = Stage::new(quick()).await;
    let asker = Asker::of(&stage, Role::Operator).await;
    for template in described {
        let path = template
            .replace("{tenant}", TENANT)
            .replace("{suite}", SUITE);
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            let verb = Method::from_bytes(method.as_bytes()).unwrap();
            let answer = asker.send(verb, &path, &[], None).await;
            let here = !root["paths"][template][method.to_lowercase()].is_null();
            assert_eq!(answer.status != 405, here, "{method} {template}");
        }
    }
}

#[test]
fn every_example_is_of_the_form_it_is_an_example_of() {
    fn walk(root: &Value, value: &Value, found: &mut usize) {
        match value {
            Value::Object(map) => {
                if let (Some(schema), Some(example)) = (map.get("schema"), map.get("example")) {
                    *found += 1;
                    let verdict = conforms(root, schema, example);
                    // What is shown of a secret is cut short.
                    verdict.unwrap_or_else(|e| panic!("{e}: {example}"));
                }
                map.values().for_each(|v| walk(root, v, found));
            }
            Value::Array(list) => list.iter().for_each(|v| walk(root, v, found)),
            _ => {}
        }
    }
    let (root, mut found) = (description(), 0);
    walk(&root, &root, &mut found);
    assert!(found > 20, "{found}");
}

#[tokio::test]
async fn every_answer_of_a_running_service_is_of_its_described_form() {
    let root = description();
    let stage = Stage::new(quick()).await;
    let tenant = stage.tenant("alpha.example", 3).await;
    let mut watched = crate::support::stage::upns(&tenant);
    watched.push("nobody@alpha.example".into());
    let suite = stage.watching(&tenant, "Berlin", watched).await;
    suite
        .until_covers(
            "nobody@alpha.example",
            presence_bridge::model::CoverageState::NotFound,
        )
        .await;
    let (id, nobody) = (tenant.id().to_string(), TENANT);
    let operator = Asker::of(&stage, Role::Operator).await;
    let suites = asker::json(&operator.get("/suites").await);
    let suite = suites["suites"][0]["id"].as_str().unwrap().to_owned();
    let viewer = Asker::of(&stage, Role::Viewer).await;
    let stranger = Asker::stranger(&stage);
    let fill = |template: &str, tenant: &str, suite: &str| {
        template
            .replace("{tenant}", tenant)
            .replace("{suite}", suite)
            .replace("{name}", "reports")
    };
    let steps = [
        ("get", "/openapi.yaml", ""),
        ("get", "/me", ""),
        ("get", "/overview", ""),
        ("get", "/tenants", ""),
        ("get", "/tenants/{tenant}", ""),
        ("get", "/tenants/{tenant}/suites", ""),
        ("post", "/tenants/{tenant}/pause", ""),
        ("post", "/tenants/{tenant}/resume", ""),
        ("post", "/tenants/{tenant}/refresh", ""),
        ("post", "/tenants/{tenant}/link", "{}"),
        ("post", "/tenants/{tenant}/invite", "{}"),
        ("post", "/tenants/{tenant}/offboard", r#"{"confirm":"x"}"#),
        ("get", "/suites", ""),
        ("post", "/suites/{suite}/revoke", ""),
        ("get", "/alerts", ""),
        ("post", "/alerts/test", ""),
        (
            "post",
            "/tenants/{tenant}/send-link",
            r#"{"email":"it@customer.example"}"#,
        ),
        ("get", "/audit", ""),
        ("post", "/audit/export", ""),
        ("get", "/credentials", ""),
        (
            "post",
            "/api-tokens",
            r#"{"name":"reports","role":"viewer"}"#,
        ),
        (
            "post",
            "/api-tokens",
            r#"{"name":"reports","role":"viewer"}"#,
        ),
        ("get", "/api-tokens", ""),
        ("delete", "/api-tokens/{name}", ""),
        ("delete", "/api-tokens/{name}", ""),
        (
            "post",
            "/tenants/{tenant}/offboard",
            r#"{"confirm":"alpha.example"}"#,
        ),
        ("post", "/tenants/{tenant}/pause", ""),
    ];
    for (method, template, body) in steps {
        let verb = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
        let json: &[_] = if body.is_empty() {
            &[]
        } else {
            &[("content-type", "application/json")]
        };
        let body = Some(body).filter(|b| !b.is_empty());
        let path = fill(template, &id, &suite);
        let of_somebody_else = fill(template, nobody, SUITE);
        let mut asked = vec![
            ("operator", path.clone()),
            ("operator", format!("{path}?x=1")),
            ("viewer", path.clone()),
            ("stranger", path.clone()),
        ];
        if of_somebody_else != path {
            asked.push(("operator", of_somebody_else));
            asked.push(("operator", fill(template, "x", "x")));
        }
        for (who, path) in asked {
            let by = match who {
                "operator" => &operator,
                "viewer" => &viewer,
                _ => &stranger,
            };
            let answer = by.send(verb.clone(), &path, json, body).await;
            judge(&root, method, template, &answer);
            let refused = who == "stranger" && template != "/openapi.yaml";
            assert_eq!(answer.status == 401, refused, "{method} {template}");
        }
        let html = [json, &[("accept", "text/html")]].concat();
        let answer = viewer.send(verb, &path, &html, body).await;
        judge(&root, method, template, &answer);
        assert_eq!(answer.status, 406, "{method} {template}");
    }
}

#[tokio::test]
async fn schemathesis_finds_no_request_that_is_not_answered_as_described() {
    let program = std::env::var("PRESENCE_TEST_SCHEMATHESIS").expect(
        "PRESENCE_TEST_SCHEMATHESIS names the program schemathesis; scripts/setup installs it, scripts/test sets the variable",
    );
    let behind_a_proxy = ("operators", "behind_proxy = true".to_owned());
    let stage = Stage::new(WorldSettings {
        cloud_keys: vec![behind_a_proxy],
        ..quick()
    })
    .await;
    let tenant = stage.tenant("alpha.example", 2).await;
    let suite = stage.watching_all(&tenant, "Berlin").await;
    suite.until_all_fresh().await;
    let operator = token(&stage, Role::Operator).await;
    let suites = stage.cloud().unwrap().operations().suites(None).await;
    let id = suites.unwrap()[0].id.to_string();
    // Its examples are of somebody who is there.
    let folder = tempfile::tempdir().unwrap();
    let text = api::DESCRIPTION
        .replace(TENANT, &tenant.id().to_string())
        .replace(SUITE, &id);
    let file = folder.path().join("admin-api.yaml");
    std::fs::write(&file, text).unwrap();
    let base = stage.operators_url().join(api::BASE).unwrap();
    let mut command = Command::new(program);
    command
        .current_dir(folder.path())
        .env("NO_COLOR", "1")
        .env("SCHEMATHESIS_HOOKS", "schemathesis_hooks")
        .env(
            "PYTHONPATH",
            concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/support"),
        )
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("PYTHONWARNINGS", "ignore")
        .arg("run")
        .arg(&file)
        .args([
            "--url",
            base.as_str(),
            "--checks",
            "all",
            "--seed",
            "20261123",
        ])
        .args(["--max-examples", MADE_UP, "--workers", "1", "--no-shrink"])
        .args(["--generation-database", "none", "--request-timeout", "20"])
        .args(["--continue-on-failure", "--output-sanitize", "true"])
        .arg("--header")
        .arg(format!("Authorization: Bearer {operator}"));
    let ran = tokio::task::spawn_blocking(move || command.output());
    let ran = ran.await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    let said = said.replace(&operator, "[token]");
    let errors = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{said}\n{errors}");
    // That it was let in to the end, that it did its work, and not that it found nothing to do.
    let me = Asker::with(&stage, &operator).get("/me").await;
    assert_eq!(me.status, 200, "{}", me.body);
    let operations = format!("{} selected / {0} total", description_operations());
    assert!(said.contains(&operations), "{operations}: {said}");
}

fn description_operations() -> usize {
    let root = description();
    let paths = root["paths"].as_object().unwrap();
    paths.values().map(|p| p.as_object().unwrap().len()).sum()
}
