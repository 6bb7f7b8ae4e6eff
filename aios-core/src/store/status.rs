use serde::{Deserialize, Serialize};

macro_rules! status {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        #[non_exhaustive]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl $name {
            /// All values.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The text in the table.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// Parses the text in the table.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$variant),)+ _ => None }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str(self.as_str())
            }
        }
    };
}

status! {
    /// The status of a run.
    RunStatus {
        /// It progresses, or waits for a task, a timer or a signal.
        Running = "running",
        /// It is paused.
        Paused = "paused",
        /// It cannot progress until something changes, such as its code.
        Blocked = "blocked",
        /// It is being cancelled, and compensates.
        Cancelling = "cancelling",
        /// It ended with a result.
        Completed = "completed",
        /// It ended with a failure.
        Failed = "failed",
        /// It was cancelled.
        Cancelled = "cancelled",
        /// It ended by continuing as another run.
        Continued = "continued",
    }
}

impl RunStatus {
    /// Whether the run has ended.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled | Self::Continued)
    }
}

status! {
    /// The status of a task.
    TaskStatus {
        /// It is assigned to an agent.
        Assigned = "assigned",
        /// It ended with a result.
        Completed = "completed",
        /// Its last attempt failed.
        Failed = "failed",
        /// It was cancelled.
        Cancelled = "cancelled",
    }
}

status! {
    /// The status of an agent.
    AgentStatus {
        /// It has to run, and no process has reported that it runs it.
        Waiting = "waiting",
        /// It takes tasks.
        Running = "running",
        /// It missed its heartbeats.
        Missing = "missing",
        /// It was stopped.
        Stopped = "stopped",
        /// Its factory failed, and is retried.
        Failed = "failed",
    }
}
