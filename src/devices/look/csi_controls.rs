//! What can be adjusted at a camera of libcamera's: exposure, gain, focus and what else `libcamerasrc` has as properties,
//! from libcamera 0.4 on.
//!
//! The element has the same properties for all cameras and knows no ranges; what a camera lacks, it says only when that is
//! set while the camera runs. Ranges here are those of libcamera's documentation (control_ids_core.yaml). Numbers with
//! fractions are given in thousandths, since values of controls are whole.

use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;
use peercam::capture::{Access, Choice, Control, Error, Kind};

use crate::graph::complaints;

/// The element.
const SOURCE: &str = "libcamerasrc";

/// Thousandths of a number with a fraction.
const PARTS: f64 = 1000.0;

/// A property that has a range: its least, greatest and usual value.
struct Range {
    property: &'static str,
    least: f64,
    most: f64,
    usual: f64,
}

const fn range(property: &'static str, least: f64, most: f64, usual: f64) -> Range {
    Range { property, least, most, usual }
}

/// Of others all that the type has is allowed.
const RANGES: [Range; 11] = [
    range("brightness", -1.0, 1.0, 0.0),
    range("contrast", 0.0, 32.0, 1.0),
    range("saturation", 0.0, 32.0, 1.0),
    range("sharpness", 0.0, 16.0, 1.0),
    range("gamma", 0.1, 10.0, 2.2),
    range("exposure-value", -8.0, 8.0, 0.0),
    range("analogue-gain", 1.0, 64.0, 1.0),
    range("digital-gain", 1.0, 64.0, 1.0),
    // Dioptres.
    range("lens-position", 0.0, 32.0, 0.0),
    // Microseconds.
    range("exposure-time", 0.0, 200_000_000.0, 0.0),
    range("ae-flicker-period", 0.0, 1_000_000.0, 0.0),
];

/// All controls, with their values where `source` runs.
pub fn list(source: Option<&gst::Element>) -> Vec<Control> {
    let made = || gst::ElementFactory::make(SOURCE).build().ok();
    let Some(element) = source.cloned().or_else(made) else { return Vec::new() };
    of(&element, source.is_some())
}

fn of(element: &gst::Element, has_values: bool) -> Vec<Control> {
    let properties = element.list_properties();
    // Those of GStreamer's own classes are no controls, nor is what is settled before the camera is opened.
    let is_control = |property: &&glib::ParamSpec| {
        property.owner_type() == element.type_()
            && property.flags().contains(glib::ParamFlags::READWRITE | gst::PARAM_FLAG_CONTROLLABLE)
    };
    let controls = properties.iter().filter(is_control);
    controls.filter_map(|property| control(property, has_values.then_some(element))).collect()
}

/// Sets a control of the camera that runs; gives it with its value.
pub fn set(source: &gst::Element, name: &str, value: i64) -> Result<Control, Error> {
    let known = of(source, true);
    let Some(control) = known.iter().find(|known| known.name == name) else {
        let known: Vec<_> = known.iter().map(|known| known.name.as_str()).collect();
        return Err(Error::UnknownControl { name: name.to_owned(), known: known.join(", ") });
    };
    control.check(value)?;
    complaints::forget_control();
    put(source, &name.replace('_', "-"), value);
    match complaints::of_control() {
        true => Err(Error::Refused { name: name.to_owned(), value, why: "this camera does not have it".into() }),
        // What the camera makes of it comes with one of its next pictures.
        false => Ok(Control { value: Some(value), ..control.clone() }),
    }
}

/// Sets what was set before at a camera that is about to run. What it does not have, it leaves out by itself.
pub fn set_again<'k>(source: &gst::Element, kept: impl IntoIterator<Item = (&'k String, &'k i64)>) {
    let known = of(source, false);
    for (name, value) in kept {
        let is_there = known.iter().any(|control| control.name == *name && control.check(*value).is_ok());
        match is_there {
            true => put(source, &name.replace('_', "-"), *value),
            false => tracing::warn!(control = name, value, "a kept control cannot be set"),
        }
    }
}

fn put(source: &gst::Element, property: &str, value: i64) {
    let Some(found) = source.find_property(property) else { return };
    let of_type = found.value_type();
    match of_type {
        glib::Type::BOOL => source.set_property(property, value != 0),
        glib::Type::I32 => source.set_property(property, value as i32),
        glib::Type::I64 => source.set_property(property, value),
        glib::Type::F32 => source.set_property(property, (value as f64 / PARTS) as f32),
        glib::Type::F64 => source.set_property(property, value as f64 / PARTS),
        _ => {
            if let Some(value) = glib::EnumClass::with_type(of_type).and_then(|class| class.to_value(value as i32)) {
                source.set_property_from_value(property, &value);
            }
        }
    }
}

/// The control that a property is; none of those whose values are no single numbers.
fn control(property: &glib::ParamSpec, element: Option<&gst::Element>) -> Option<Control> {
    let name = property.name();
    let range = RANGES.iter().find(|range| range.property == name);
    let parts = if matches!(property.value_type(), glib::Type::F32 | glib::Type::F64) { PARTS } else { 1.0 };
    let whole = |value: f64| (value * parts).round() as i64;
    let (kind, (minimum, maximum, default), menu) = match property.value_type() {
        glib::Type::BOOL => (Kind::Boolean, (0, 1, 0), vec![]),
        glib::Type::I32 | glib::Type::I64 | glib::Type::F32 | glib::Type::F64 => {
            let all = (i64::from(i32::MIN), i64::from(i32::MAX), 0);
            let limits = range.map_or(all, |range| (whole(range.least), whole(range.most), whole(range.usual)));
            (Kind::Integer, limits, vec![])
        }
        other => {
            let class = glib::EnumClass::with_type(other)?;
            let choice =
                |value: &glib::EnumValue| Choice { value: value.value().into(), title: value.nick().to_owned() };
            let menu: Vec<_> = class.values().iter().map(choice).collect();
            let values = || menu.iter().map(|choice| choice.value);
            (Kind::Menu, (values().min()?, values().max()?, 0), menu)
        }
    };
    let value = element.and_then(|element| {
        let value = element.property_value(name);
        let number = value.get::<bool>().map(f64::from).ok();
        let number = number.or_else(|| value.get::<i32>().map(f64::from).ok());
        let number = number.or_else(|| value.get::<i64>().map(|value| value as f64).ok());
        let number = number.or_else(|| value.get::<f32>().map(f64::from).ok());
        let number = number.or_else(|| value.get::<f64>().ok());
        let number = number.or_else(|| Some(f64::from(glib::EnumValue::from_value(&value)?.1.value())));
        number.map(whole)
    });
    let title = property.nick().to_owned();
    Some(Control {
        name: name.replace('-', "_"),
        title: if parts == 1.0 { title } else { format!("{title} (thousandths)") },
        kind,
        access: Access::Writable,
        minimum,
        maximum,
        step: 1,
        default,
        value,
        menu,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// An element whose controls have names that libcamera's have, too.
    #[test]
    fn properties_are_listed_and_set_as_controls() {
        gst::init().unwrap();
        let element = gst::ElementFactory::make("videobalance").property("contrast", 1.5).build().unwrap();
        let listed = of(&element, true);
        let told = |control: &Control| (control.name.clone(), control.kind, control.value);
        let mut told: Vec<_> = listed.iter().map(told).collect();
        told.sort_by(|one, other| one.0.cmp(&other.0));
        let number = |name: &str, value| (name.to_owned(), Kind::Integer, Some(value));
        assert_eq!(
            told,
            [number("brightness", 0), number("contrast", 1500), number("hue", 0), number("saturation", 1000)]
        );
        let contrast = listed.iter().find(|control| control.name == "contrast").unwrap();
        assert_eq!((contrast.minimum, contrast.maximum, contrast.default), (0, 32_000, 1000));
        assert_eq!(set(&element, "brightness", -600).unwrap().value, Some(-600));
        assert_eq!(element.property::<f64>("brightness"), -0.6);
        for (name, value) in [("contrast", -1), ("brightness", 1001), ("iso", 100), ("name", 1)] {
            assert!(set(&element, name, value).is_err(), "{name}");
        }
        set_again(&element, &BTreeMap::from([("contrast".to_owned(), 2000), ("iso".to_owned(), 1)]));
        assert_eq!(element.property::<f64>("contrast"), 2.0);
    }
}
