//! The controls of a libcamera camera: exposure, gain, focus and the other properties of `libcamerasrc`, from
//! libcamera 0.4 on.
//!
//! The element has the same properties for all cameras and no ranges; that a camera lacks one is only reported when
//! it is set while the camera runs. The ranges here are those of libcamera's documentation (control_ids_core.yaml).
//! Fractional numbers are given in thousandths, because values of controls are whole numbers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;
use peercam::capture::{Control, ControlAccess, ControlKind, Error, MenuItem};

use crate::graph::driver_errors;

/// Name of the element.
const SOURCE: &str = "libcamerasrc";

/// Fractional values are given in units of 1/1000.
const THOUSANDTHS: f64 = 1000.0;

/// The range of a property: its least, greatest and default value.
struct Range {
    property: &'static str,
    least: f64,
    most: f64,
    usual: f64,
}

const fn range(property: &'static str, least: f64, most: f64, usual: f64) -> Range {
    Range { property, least, most, usual }
}

/// Other properties allow all values of their type.
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

/// All controls; with their values if `source` runs.
pub fn list(source: Option<&gst::Element>) -> Vec<Control> {
    let made = || gst::ElementFactory::make(SOURCE).build().ok();
    let Some(element) = source.cloned().or_else(made) else { return Vec::new() };
    of(&element, source.is_some())
}

fn of(element: &gst::Element, has_values: bool) -> Vec<Control> {
    let properties = element.list_properties();
    // Properties of GStreamer's own classes are not controls, nor are those that are fixed before the camera is opened.
    let is_control = |property: &&glib::ParamSpec| {
        property.owner_type() == element.type_()
            && property.flags().contains(glib::ParamFlags::READWRITE | gst::PARAM_FLAG_CONTROLLABLE)
    };
    let controls = properties.iter().filter(is_control);
    controls.filter_map(|property| control(property, has_values.then_some(element))).collect()
}

/// Sets a control of the running camera; returns it with its value.
pub fn set(source: &gst::Element, name: &str, value: i64) -> Result<Control, Error> {
    let known = of(source, true);
    let Some(control) = known.iter().find(|known| known.name == name) else {
        let known: Vec<_> = known.iter().map(|known| known.name.as_str()).collect();
        return Err(Error::UnknownControl { name: name.to_owned(), known: known.join(", ") });
    };
    control.check(value)?;
    driver_errors::clear_missing_control();
    put(source, &name.replace('_', "-"), value);
    match driver_errors::is_control_missing() {
        true => Err(Error::Refused { name: name.to_owned(), value, why: "this camera does not have it".into() }),
        // The camera applies it with one of its next pictures.
        false => Ok(Control { value: Some(value), ..control.clone() }),
    }
}

/// Sets the kept controls of a camera that is about to run. The camera ignores those that it does not have.
pub fn set_again<'k>(source: &gst::Element, kept: impl IntoIterator<Item = (&'k String, &'k i64)>) {
    let known = of(source, false);
    for (name, value) in kept {
        let is_there = known.iter().any(|control| control.name == *name && control.check(*value).is_ok());
        match is_there {
            true => put(source, &name.replace('_', "-"), *value),
            false => tracing::warn!(control = name, value, "a saved control cannot be set"),
        }
    }
}

/// A control that is set while the camera runs is set again for so many pictures. Each picture that is passed on
/// soon frees a buffer.
const REPEATS: u32 = 8;

/// Controls that were recently set on the running camera. Clones share them.
///
/// `libcamerasrc` (0.4 to 0.7) puts new values into its next request for a picture. If no buffer is free for that
/// request, as after most pictures, it drops the request and the values with it.
#[derive(Clone, Debug, Default)]
pub struct RepeatedControls(Arc<Mutex<BTreeMap<String, (i64, u32)>>>);

impl RepeatedControls {
    /// Sets controls that are added from now on again, as pictures of `source` pass.
    pub fn follow(&self, source: &gst::Element) {
        let Some(pad) = source.static_pad("src") else { return };
        let repeated = self.clone();
        pad.add_probe(gst::PadProbeType::BUFFER, move |pad, _| {
            if let Some(source) = pad.parent_element() {
                repeated.next(|name, value| put(&source, &name.replace('_', "-"), value));
            }
            gst::PadProbeReturn::Ok
        });
    }

    /// Adds a control that was just set.
    pub fn add(&self, name: &str, value: i64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), (value, REPEATS));
    }

    fn next(&self, set: impl Fn(&str, i64)) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|name, (value, left)| {
            set(name, *value);
            *left -= 1;
            *left > 0
        });
    }
}

fn put(source: &gst::Element, property: &str, value: i64) {
    let Some(found) = source.find_property(property) else { return };
    let of_type = found.value_type();
    match of_type {
        glib::Type::BOOL => source.set_property(property, value != 0),
        glib::Type::I32 => source.set_property(property, value as i32),
        glib::Type::I64 => source.set_property(property, value),
        glib::Type::F32 => source.set_property(property, (value as f64 / THOUSANDTHS) as f32),
        glib::Type::F64 => source.set_property(property, value as f64 / THOUSANDTHS),
        _ => {
            if let Some(value) = glib::EnumClass::with_type(of_type).and_then(|class| class.to_value(value as i32)) {
                source.set_property_from_value(property, &value);
            }
        }
    }
}

/// The control of a property; `None` if its value is not a single number.
fn control(property: &glib::ParamSpec, element: Option<&gst::Element>) -> Option<Control> {
    let name = property.name();
    let range = RANGES.iter().find(|range| range.property == name);
    let parts = if matches!(property.value_type(), glib::Type::F32 | glib::Type::F64) { THOUSANDTHS } else { 1.0 };
    let whole = |value: f64| (value * parts).round() as i64;
    let (kind, (minimum, maximum, default), menu) = match property.value_type() {
        glib::Type::BOOL => (ControlKind::Boolean, (0, 1, 0), vec![]),
        glib::Type::I32 | glib::Type::I64 | glib::Type::F32 | glib::Type::F64 => {
            let all = (i64::from(i32::MIN), i64::from(i32::MAX), 0);
            let limits = range.map_or(all, |range| (whole(range.least), whole(range.most), whole(range.usual)));
            (ControlKind::Integer, limits, vec![])
        }
        other => {
            let class = glib::EnumClass::with_type(other)?;
            let choice =
                |value: &glib::EnumValue| MenuItem { value: value.value().into(), title: value.nick().to_owned() };
            let menu: Vec<_> = class.values().iter().map(choice).collect();
            let values = || menu.iter().map(|choice| choice.value);
            (ControlKind::Menu, (values().min()?, values().max()?, 0), menu)
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
        access: ControlAccess::Writable,
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
    use super::*;

    /// The camera forgets what is set, except what is set again as pictures pass.
    #[test]
    fn a_control_is_set_again_with_each_of_the_next_pictures() {
        gst::init().unwrap();
        let line = "videotestsrc num-buffers=20 ! videobalance name=camera ! fakesink";
        let pipeline = gst::parse::launch(line).unwrap().downcast::<gst::Bin>().unwrap();
        let camera = pipeline.by_name("camera").unwrap();
        let repeated = RepeatedControls::default();
        repeated.follow(&camera);
        repeated.add("brightness", 100);
        repeated.add("brightness", -600);
        let sets = Arc::new(Mutex::new(Vec::new()));
        let seen = sets.clone();
        camera.static_pad("src").unwrap().add_probe(gst::PadProbeType::BUFFER, move |pad, _| {
            let camera = pad.parent_element().unwrap();
            seen.lock().unwrap().push(camera.property::<f64>("brightness"));
            camera.set_property("brightness", 0.0);
            gst::PadProbeReturn::Ok
        });
        pipeline.set_state(gst::State::Playing).unwrap();
        let ends = [gst::MessageType::Eos, gst::MessageType::Error];
        let end = pipeline.bus().unwrap().timed_pop_filtered(gst::ClockTime::from_seconds(20), &ends).unwrap();
        pipeline.set_state(gst::State::Null).unwrap();
        assert_eq!(end.type_(), gst::MessageType::Eos);
        let sets = sets.lock().unwrap();
        let repeats = REPEATS as usize;
        assert!(sets[..repeats].iter().all(|value| *value == -0.6), "{sets:?}");
        assert!(sets[repeats..].len() == 20 - repeats && sets[repeats..].iter().all(|value| *value == 0.0), "{sets:?}");
    }

    /// An element with some property names that libcamera's has too.
    #[test]
    fn properties_are_listed_and_set_as_controls() {
        gst::init().unwrap();
        let element = gst::ElementFactory::make("videobalance").property("contrast", 1.5).build().unwrap();
        let listed = of(&element, true);
        let summary = |control: &Control| (control.name.clone(), control.kind, control.value);
        let mut summary: Vec<_> = listed.iter().map(summary).collect();
        summary.sort_by(|one, other| one.0.cmp(&other.0));
        let number = |name: &str, value| (name.to_owned(), ControlKind::Integer, Some(value));
        assert_eq!(
            summary,
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
