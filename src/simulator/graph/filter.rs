//! As much of `OData`'s `$filter` as the product uses: `eq`, `in`, and `eq`s joined by `or`. `microsoft-graph.md` §7.

/// Most values of one filter. Graph, "Use the $filter query parameter".
const MAX_VALUES: usize = 15;

/// Longest value of an `eq`, in characters.
const MAX_VALUE: usize = 120;

/// Which property must have one of which values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    pub property: Property,
    pub values: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Property {
    Id,
    Upn,
    Mail,
}

/// Why a filter is refused: Graph's code and message.
pub type Refused = (&'static str, String);

fn invalid() -> Refused {
    ("BadRequest", "Invalid filter clause".to_owned())
}

/// Reads a filter, already percent-decoded.
pub fn parse(text: &str) -> Result<Filter, Refused> {
    let mut rest = text.trim();
    let mut filter: Option<Filter> = None;
    loop {
        let (name, after) = word(rest).ok_or_else(invalid)?;
        let property = match name.to_ascii_lowercase().as_str() {
            "id" => Property::Id,
            "userprincipalname" => Property::Upn,
            "mail" => Property::Mail,
            _ => {
                return Err((
                    "Request_UnsupportedQuery",
                    format!(
                        "Unsupported or invalid query filter clause specified for property '{name}' of resource 'User'."
                    ),
                ));
            }
        };
        let (operator, after) = word(after).ok_or_else(invalid)?;
        let (values, after) = match operator {
            "eq" => {
                let (value, after) = literal(after).ok_or_else(invalid)?;
                if value.chars().count() > MAX_VALUE {
                    return Err((
                        "Request_BadRequest",
                        "A filter value is longer than 120 characters.".to_owned(),
                    ));
                }
                (vec![value], after)
            }
            "in" => list(after).ok_or_else(invalid)?,
            _ => return Err(invalid()),
        };
        let filter = filter.get_or_insert(Filter {
            property,
            values: Vec::new(),
        });
        if filter.property != property {
            return Err(invalid());
        }
        filter.values.extend(values);
        rest = after.trim_start();
        match word(rest) {
            None if rest.is_empty() => break,
            Some(("or", after)) => rest = after,
            _ => return Err(invalid()),
        }
    }
    let filter = filter.ok_or_else(invalid)?;
    if filter.values.len() > MAX_VALUES {
        return Err((
            "Request_UnsupportedQuery",
            format!(
                "Too many child clauses specified in search filter expression containing 'OR' operators: {}. Max allowed: {MAX_VALUES}.",
                filter.values.len()
            ),
        ));
    }
    Ok(filter)
}

/// Takes a word off the front, with the blank after it.
fn word(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start();
    let end = text
        .find(|c: char| !c.is_ascii_alphanumeric())
        .unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// Takes a quoted text off the front; a doubled apostrophe stands for one.
fn literal(text: &str) -> Option<(String, &str)> {
    let mut rest = text.trim_start().strip_prefix('\'')?;
    let mut value = String::new();
    loop {
        let (before, after) = rest.split_once('\'')?;
        value.push_str(before);
        match after.strip_prefix('\'') {
            Some(after) => {
                value.push('\'');
                rest = after;
            }
            None => return Some((value, after)),
        }
    }
}

fn list(text: &str) -> Option<(Vec<String>, &str)> {
    let mut rest = text.trim_start().strip_prefix('(')?;
    let mut values = Vec::new();
    loop {
        let (value, after) = literal(rest)?;
        values.push(value);
        let after = after.trim_start();
        match after.strip_prefix(',') {
            Some(after) => rest = after,
            None => return Some((values, after.strip_prefix(')')?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(text: &str) -> Result<Vec<String>, Refused> {
        parse(text).map(|f| f.values)
    }

    #[test]
    fn reads_what_the_product_sends() {
        assert_eq!(
            parse("userPrincipalName in ('a@x.com', 'o''b@x.com')").unwrap(),
            Filter {
                property: Property::Upn,
                values: vec!["a@x.com".into(), "o'b@x.com".into()]
            }
        );
        assert_eq!(values("id eq '1' or id eq '2'").unwrap(), ["1", "2"]);
    }

    #[test]
    fn refuses_what_microsoft_refuses() {
        for text in [
            "",
            "userPrincipalName in (a@x.com)",
            "userPrincipalName eq 'o'b'",
            "userPrincipalName in ()",
            "userPrincipalName in ('a'",
            "id eq 'a' or mail eq 'b'",
            "startswith(userPrincipalName,'a')",
            "displayName eq 'a'",
            "id eq 'a' and id eq 'b'",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        let many = |n| format!("userPrincipalName in ({})", vec!["'a'"; n].join(","));
        assert_eq!(values(&many(15)).unwrap().len(), 15);
        assert!(values(&many(16)).unwrap_err().1.contains("Max allowed: 15"));
        assert!(values(&format!("id eq '{}'", "x".repeat(121))).is_err());
    }
}
