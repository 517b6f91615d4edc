//! Each presence of an answer beside the simplest model of whom it belongs to.

use super::*;

/// How Microsoft, or nobody, writes an id.
#[derive(Debug, Clone, Copy)]
enum Written {
    Plainly,
    Loudly,
    Garbled,
    NotAtAll,
}

/// Whose entry it is, how that is written, and what it says. From 40 on it is somebody nobody asked for.
type Told = (u128, Written, &'static str);

fn told() -> impl Strategy<Value = Told> {
    let written = prop_oneof![
        5 => Just(Written::Plainly),
        3 => Just(Written::Loudly),
        1 => Just(Written::Garbled),
        1 => Just(Written::NotAtAll),
    ];
    let says = prop::sample::select(vec!["Available", "Busy", "Away", "DoNotDisturb"]);
    (0..50_u128, written, says)
}

/// Letters in it, so that there are two ways to write it.
fn whose(n: u128) -> UserId {
    UserId(Uuid::from_u128((0xabcd_ef00 << 96) | n))
}

fn entry((n, written, says): Told) -> Value {
    let id = whose(n).to_string();
    let id = match written {
        Written::Plainly => json!(id),
        Written::Loudly => json!(id.to_uppercase()),
        Written::Garbled => json!(id.replace('a', "x")),
        Written::NotAtAll => Value::Null,
    };
    json!({"id": id, "availability": says, "activity": says})
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    /// Of entries that speak of the same person the last one counts, on whatever page.
    #[test]
    fn each_presence_lands_at_whom_it_is_of_and_nobody_is_made_up(
        asked in prop::collection::btree_set(0..40_u128, 1..40),
        pages in prop::collection::vec(prop::collection::vec(told(), 0..20), 1..=MAX_PAGES),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let answers = pages.clone();
        let (graph, seen) = graph(move |request, _| {
            let page = request.uri.query().map_or(0, |query| query.parse::<usize>().unwrap());
            let value: Vec<Value> = answers[page].iter().copied().map(entry).collect();
            let mut body = json!({ "value": value });
            if page + 1 < answers.len() {
                body["@odata.nextLink"] = json!(format!("https://graph.example/more?{}", page + 1));
            }
            ok(&body)
        });
        let ids: Vec<UserId> = asked.iter().map(|n| whose(*n)).collect();
        let read = runtime.block_on(graph.presences(&token(), &ids)).unwrap();
        prop_assert_eq!(seen.lock().unwrap().len(), pages.len());
        let mut expected = ById::default();
        for (n, written, says) in pages.into_iter().flatten() {
            let readable = matches!(written, Written::Plainly | Written::Loudly);
            if readable && asked.contains(&n) {
                expected.insert(whose(n), Presence::from_microsoft(Some(says), Some(says)));
            }
        }
        prop_assert_eq!(read, expected);
    }
}
