"""Types: conversion between Python and JSON, JSON Schemas, and checks of arguments."""
