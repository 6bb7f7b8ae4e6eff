/// Declares the events of one domain: a constant for each action, the table `EVENTS`, and
/// `is_projected`.
///
/// The documentation of a constant is the meaning of its event.
macro_rules! events {
    (
        $domain:literal;
        $(
            #[doc = $meaning:literal]
            $name:ident = $action:literal $(of $entity:literal)? $(($data:ident))? $([$($flag:ident)+])?;
        )+
    ) => {
        /// First segment of the types of these events.
        pub const DOMAIN: &str = $domain;

        $(
            #[doc = concat!("`", $action, "`:", $meaning, ".")]
            pub const $name: &str = $action;
        )+

        /// These events, each as [`EventKind`](super::EventKind).
        pub const EVENTS: &[super::kind::EventKind] = &[$(
            super::kind::EventKind {
                domain: $domain,
                entity: events!(@entity $($entity)?),
                action: $action,
                data: concat!("", $(stringify!($data))?),
                projected: events!(@projected $($($flag)+)?),
                relayed: events!(@relayed $($($flag)+)?),
                external: events!(@external $($($flag)+)?),
                meaning: $meaning.trim_ascii(),
            },
        )+];

        /// Whether an event with this action may change a read model.
        #[must_use]
        pub fn is_projected(action: &str) -> bool {
            match action {
                $($name => events!(@projected $($($flag)+)?),)+
                _ => false,
            }
        }
    };
    (@entity) => { None };
    (@entity $entity:literal) => { Some($entity) };
    (@projected) => { false };
    (@projected projected $($rest:ident)*) => { true };
    (@projected $other:ident $($rest:ident)*) => { events!(@projected $($rest)*) };
    (@relayed) => { false };
    (@relayed relayed $($rest:ident)*) => { true };
    (@relayed $other:ident $($rest:ident)*) => { events!(@relayed $($rest)*) };
    (@external) => { false };
    (@external external $($rest:ident)*) => { true };
    (@external $other:ident $($rest:ident)*) => { events!(@external $($rest)*) };
}
