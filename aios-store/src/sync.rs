//! Locks that ignore poisoning.
//!
//! Library code of this crate does not panic, so a poisoned lock says nothing about the data behind it,
//! and no caller could act on the error.

use std::sync::{Mutex, MutexGuard, PoisonError};
#[cfg(any(feature = "sqlite", feature = "postgres"))]
use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Locks a mutex.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Locks for reading.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(crate) fn read<T: ?Sized>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

/// Locks for writing.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(crate) fn write<T: ?Sized>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
