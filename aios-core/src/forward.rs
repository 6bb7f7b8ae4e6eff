//! Implementations of the ports for pointers to an implementation, so that generic code and wrappers take
//! an `Arc` or a `Box` like the implementation itself.

/// Implements an object-safe port for `Arc` and `Box`: asynchronous methods first, each with the lifetimes
/// of its references. The future of the implementation is returned as it is, so that forwarding allocates
/// nothing.
macro_rules! forward {
    ($port:ident { $($methods:tt)* }) => {
        $crate::forward::forward!(@pointer std::sync::Arc, $port { $($methods)* });
        $crate::forward::forward!(@pointer Box, $port { $($methods)* });
    };
    (@pointer $pointer:path, $port:ident {
        $(async $name:ident[$($life:lifetime),*]($($argument:ident: $kind:ty),*) -> $output:ty;)*
        $(fn $sync:ident($($given:ident: $given_kind:ty),*) $(-> $result:ty)?;)*
    }) => {
        const _: () = {
            use $pointer as Pointer;

            #[deny(clippy::missing_trait_methods, reason = "a pointer forwards everything")]
            impl<T: $port + ?Sized> $port for Pointer<T> {
                $(fn $name<'port, $($life,)* 'future>(
                    &'port self,
                    $($argument: $kind),*
                ) -> $crate::BoxFuture<'future, $output>
                where
                    'port: 'future,
                    $($life: 'future,)*
                    Self: 'future,
                {
                    (**self).$name($($argument),*)
                })*

                $(fn $sync(&self, $($given: $given_kind),*) $(-> $result)? {
                    (**self).$sync($($given),*)
                })*
            }
        };
    };
}

pub(crate) use forward;
