//! Pan, tilt and zoom, with those of V4L2's camera controls that a device has.

use std::path::Path;

use peercam::capture::{AxisMotion, Control, Error, PtzMovement};

use super::controls;

/// An axis: its name, and the controls that move it (Linux, userspace-api/media/v4l/ext-ctrls-camera.rst:
/// `V4L2_CID_PAN_ABSOLUTE` and its neighbours).
struct Axis {
    verb: &'static str,
    absolute: &'static str,
    relative: Option<&'static str>,
    speed: &'static str,
}

const PAN: Axis = Axis { verb: "pan", absolute: "pan_absolute", relative: Some("pan_relative"), speed: "pan_speed" };
const TILT: Axis =
    Axis { verb: "tilt", absolute: "tilt_absolute", relative: Some("tilt_relative"), speed: "tilt_speed" };
const ZOOM: Axis = Axis { verb: "zoom", absolute: "zoom_absolute", relative: None, speed: "zoom_continuous" };

fn axes(movement: PtzMovement) -> impl Iterator<Item = (&'static Axis, AxisMotion)> {
    let axes = [(&PAN, movement.pan), (&TILT, movement.tilt), (&ZOOM, movement.zoom)];
    axes.into_iter().filter_map(|(axis, motion)| Some((axis, motion?)))
}

/// Moves the device at `node`. Nothing moves unless every axis can. Blocks.
pub fn apply(node: &Path, movement: PtzMovement) -> Result<(), Error> {
    let controls = controls::list(node)?;
    for (name, value) in steps(&controls, movement)? {
        controls::set(node, &name, value)?;
    }
    Ok(())
}

/// The error for a camera without any controls.
pub fn unsupported(movement: PtzMovement) -> Error {
    steps(&[], movement).err().unwrap_or(Error::Immovable { verb: "pan, tilt or zoom".into(), hint: "".into() })
}

/// The controls to set, with their values.
fn steps(controls: &[Control], movement: PtzMovement) -> Result<Vec<(String, i64)>, Error> {
    let has_none = [&PAN, &TILT, &ZOOM].iter().all(|axis| !axis.is_there(controls));
    let is_rest = |motion: AxisMotion| motion == AxisMotion::At(0.0) || motion == AxisMotion::Home;
    let mut steps = Vec::new();
    for (axis, motion) in axes(movement) {
        match axis.step(controls, motion) {
            Ok(step) => steps.push(step),
            // An axis that cannot move stands still, and is at home.
            Err(_) if is_rest(motion) && !has_none => {}
            Err(error) => return Err(error),
        }
    }
    Ok(steps)
}

impl Axis {
    fn is_there(&self, controls: &[Control]) -> bool {
        let names = [Some(self.absolute), self.relative, Some(self.speed)];
        controls.iter().any(|control| names.contains(&Some(control.name.as_str())))
    }

    /// The control to set, with its value.
    fn step(&self, controls: &[Control], motion: AxisMotion) -> Result<(String, i64), Error> {
        let find = |name: &str| controls.iter().find(|control| control.name == name);
        let (absolute, speed) = (find(self.absolute), find(self.speed));
        let relative = self.relative.and_then(find);
        let step = match motion {
            AxisMotion::To(place) => absolute.map(|control| (control, place_at(control, place))),
            AxisMotion::By(share) => match (absolute, relative) {
                (Some(control), _) => Some((control, moved(control, share))),
                // The range of a relative control is the most that it moves at once.
                (None, Some(control)) => Some((control, either_way(control, share))),
                (None, None) => None,
            },
            AxisMotion::Home => absolute.map(|control| (control, on_step(control, control.default))),
            AxisMotion::At(share) => speed.map(|control| (control, either_way(control, share))),
        };
        step.map(|(control, value)| (control.name.clone(), value)).ok_or_else(|| {
            let hint = match (absolute.is_some() || relative.is_some(), speed.is_some()) {
                (true, _) => " at a speed; it only moves to places",
                (false, true) => " to a place; it only moves at a speed",
                (false, false) => "",
            };
            Error::Immovable { verb: self.verb.into(), hint: hint.into() }
        })
    }
}

/// The value at this fraction of the range.
fn place_at(control: &Control, share: f64) -> i64 {
    let span = control.maximum.saturating_sub(control.minimum) as f64;
    let value = control.minimum.saturating_add((span * share.clamp(0.0, 1.0)).round() as i64);
    on_step(control, value)
}

/// The value this far from the present one; it stops at the end of the range.
fn moved(control: &Control, share: f64) -> i64 {
    let span = control.maximum.saturating_sub(control.minimum) as f64;
    let from = control.value.unwrap_or(control.default);
    on_step(control, from.saturating_add((span * share.clamp(-1.0, 1.0)).round() as i64))
}

/// A value in a range around 0.
fn either_way(control: &Control, share: f64) -> i64 {
    let share = share.clamp(-1.0, 1.0);
    let end = if share < 0.0 { control.minimum.saturating_neg() } else { control.maximum };
    on_step(control, (end.max(0) as f64 * share).round() as i64)
}

/// The nearest value that the control has.
fn on_step(control: &Control, value: i64) -> i64 {
    let step = i64::try_from(control.step.max(1)).unwrap_or(i64::MAX);
    let value = value.clamp(control.minimum, control.maximum);
    let steps = (value.saturating_sub(control.minimum) as f64 / step as f64).round() as i64;
    control.minimum.saturating_add(steps.saturating_mul(step)).min(control.maximum)
}

#[cfg(test)]
mod tests {
    use peercam::capture::{ControlAccess, ControlKind};

    use super::*;

    fn control(name: &str, minimum: i64, maximum: i64, step: u64, value: i64) -> Control {
        Control {
            name: name.into(),
            title: name.into(),
            kind: ControlKind::Integer,
            access: ControlAccess::Writable,
            minimum,
            maximum,
            step,
            default: 0,
            value: Some(value),
            menu: Vec::new(),
        }
    }

    #[test]
    fn an_axis_moves_by_the_control_that_the_camera_has() {
        // A conference camera: arc seconds in steps of a degree.
        let places = [control("pan_absolute", -612_000, 612_000, 3600, 0), control("zoom_absolute", 100, 500, 1, 100)];
        let speeds = [control("pan_speed", -7, 7, 1, 0)];
        let relative = [control("pan_relative", -36_000, 36_000, 1, 0)];
        let cases = [
            (&places[..], &PAN, AxisMotion::To(0.0), Ok(("pan_absolute", -612_000))),
            (&places, &PAN, AxisMotion::To(0.5), Ok(("pan_absolute", 0))),
            (&places, &PAN, AxisMotion::To(7.0), Ok(("pan_absolute", 612_000))),
            (&places, &PAN, AxisMotion::By(0.01), Ok(("pan_absolute", 10_800))),
            (&places, &PAN, AxisMotion::By(-2.0), Ok(("pan_absolute", -612_000))),
            (&places, &ZOOM, AxisMotion::To(0.25), Ok(("zoom_absolute", 200))),
            (&places, &PAN, AxisMotion::At(1.0), Err("this camera cannot pan at a speed")),
            (&places, &TILT, AxisMotion::By(0.1), Err("this camera cannot tilt")),
            (&speeds, &PAN, AxisMotion::At(-0.5), Ok(("pan_speed", -4))),
            (&speeds, &PAN, AxisMotion::At(0.0), Ok(("pan_speed", 0))),
            (&speeds, &PAN, AxisMotion::To(0.5), Err("this camera cannot pan to a place")),
            (&relative, &PAN, AxisMotion::By(0.5), Ok(("pan_relative", 18_000))),
        ];
        for (controls, axis, motion, expected) in cases {
            match (axis.step(controls, motion), expected) {
                (Ok(step), Ok((name, value))) => assert_eq!(step, (name.to_owned(), value), "{motion:?}"),
                (Err(error), Err(words)) => assert!(error.to_string().starts_with(words), "{error}"),
                (step, expected) => panic!("{motion:?}: {step:?}, not {expected:?}"),
            }
        }
    }

    #[test]
    fn stop_and_home_work_if_any_axis_moves() {
        let stop = PtzMovement {
            pan: Some(AxisMotion::At(0.0)),
            tilt: Some(AxisMotion::At(0.0)),
            zoom: Some(AxisMotion::At(0.0)),
        };
        let home =
            PtzMovement { pan: Some(AxisMotion::Home), tilt: Some(AxisMotion::Home), zoom: Some(AxisMotion::Home) };
        let camera = [control("pan_absolute", -100, 100, 1, 40), control("zoom_continuous", -3, 3, 1, 2)];
        assert_eq!(steps(&camera, stop).unwrap(), [("zoom_continuous".to_owned(), 0)]);
        assert_eq!(steps(&camera, home).unwrap(), [("pan_absolute".to_owned(), 0)]);
        for movement in [stop, home, PtzMovement::default()] {
            assert!(unsupported(movement).to_string().starts_with("this camera cannot pan"));
        }
    }

    #[test]
    fn no_number_leaves_the_range() {
        let odd = control("pan_absolute", i64::MIN, i64::MAX, u64::MAX, 3);
        for share in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.3] {
            for motion in [AxisMotion::To(share), AxisMotion::By(share), AxisMotion::At(share)] {
                // Only checks that there is no panic: which value it is does not matter.
                PAN.step(std::slice::from_ref(&odd), motion)
                    .map(drop)
                    .or_else(|error| match error {
                        Error::Immovable { .. } => Ok(()),
                        error => Err(error),
                    })
                    .unwrap();
            }
        }
    }
}
