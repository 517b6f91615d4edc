//! The short way to read an answer about presence: when everything in it is of the kind Microsoft documents, nothing is copied that is not
//! kept. Whatever is not so is left to the patient reader, who takes what he can.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::model::{ById, IdSet, Presence, UserId, WorkLocation};

/// Reads a page entry by entry, and keeps what was asked for.
struct Page<'a>(&'a IdSet<UserId>);

impl<'de> Visitor<'de> for Page<'_> {
    type Value = ById<UserId, Presence>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a page of presences")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut page: A) -> Result<Self::Value, A::Error> {
        let mut presences = None;
        while let Some(Text(property)) = page.next_key()? {
            match &*property {
                "value" if presences.is_none() => {
                    presences = Some(page.next_value_seed(Entries(self.0))?);
                }
                // There is more, which the patient reader asks for.
                "value" | "@odata.nextLink" => return Err(Error::custom("not plain")),
                _ => _ = page.next_value::<IgnoredAny>()?,
            }
        }
        presences.ok_or_else(|| Error::missing_field("value"))
    }
}

struct Entries<'a>(&'a IdSet<UserId>);

impl<'de> DeserializeSeed<'de> for Entries<'_> {
    type Value = ById<UserId, Presence>;

    fn deserialize<D: Deserializer<'de>>(self, list: D) -> Result<Self::Value, D::Error> {
        list.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Entries<'_> {
    type Value = ById<UserId, Presence>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of presences")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut presences = ById::default();
        presences.reserve(self.0.len());
        while let Some(Object(entry)) = list.next_element::<Object<Entry<'_>>>()? {
            presences.extend(entry.read().filter(|(id, _)| self.0.contains(id)));
        }
        Ok(presences)
    }
}

/// An object: what is derived would take a list for one, too.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Only<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Only<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }

        from.deserialize_map(Only(PhantomData))
    }
}

#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry<'a> {
    #[serde(borrow)]
    id: Text<'a>,
    #[serde(borrow)]
    availability: Option<Text<'a>>,
    #[serde(borrow)]
    activity: Option<Text<'a>>,
    #[serde(borrow)]
    status_message: Option<Object<StatusMessage<'a>>>,
    out_of_office_settings: Option<Object<OutOfOffice>>,
    #[serde(borrow)]
    work_location: Option<Object<WorkPlace<'a>>>,
}

#[derive(Deserialize)]
struct StatusMessage<'a> {
    #[serde(borrow)]
    message: Option<Object<Message<'a>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Message<'a> {
    #[serde(borrow)]
    content: Option<Text<'a>>,
    #[serde(borrow)]
    content_type: Option<Text<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OutOfOffice {
    is_out_of_office: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WorkPlace<'a> {
    #[serde(borrow)]
    work_location_type: Option<Text<'a>>,
}

fn text<'a>(text: Option<&'a Text<'_>>) -> Option<&'a str> {
    text.map(|Text(text)| &**text)
}

impl Entry<'_> {
    /// `None` without a well-formed id.
    fn read(&self) -> Option<(UserId, Presence)> {
        let id = self.id.0.parse().ok()?;
        let message = self.status_message.as_ref();
        let message = message.and_then(|Object(status)| status.message.as_ref());
        let plain = message
            .and_then(|Object(message)| text(message.content_type.as_ref()))
            .is_none_or(|kind| kind.eq_ignore_ascii_case("text"));
        let content = message
            .and_then(|Object(message)| text(message.content.as_ref()))
            .filter(|_| plain);
        let (availability, activity) = (
            text(self.availability.as_ref()),
            text(self.activity.as_ref()),
        );
        let mut presence =
            Presence::from_microsoft(availability, activity).with_status_message(content);
        let out_of_office = self.out_of_office_settings.as_ref();
        presence.out_of_office = out_of_office.and_then(|Object(of)| of.is_out_of_office);
        let place = self.work_location.as_ref();
        let place = place.and_then(|Object(place)| text(place.work_location_type.as_ref()));
        presence.work_location = place.and_then(WorkLocation::parse);
        Some((id, presence))
    }
}

/// The entries of those asked for that have a well-formed id. `None`: the patient reader is wanted.
pub(super) fn presences(body: &[u8], asked: &IdSet<UserId>) -> Option<ById<UserId, Presence>> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    let presences = reader.deserialize_map(Page(asked)).ok()?;
    reader.end().ok()?;
    Some(presences)
}
