//! `layout`: where each region lies.

use crate::inspected::Inspected;
use crate::report::Report;
use crate::show::{self, Columns};
use serde::Serialize;
use std::io::{self, Write};

/// The regions in the order in which they lie, and the structs in them.
#[derive(Debug, Serialize)]
pub(crate) struct LayoutReport {
    schema: &'static str,
    version: String,
    /// Hash over the places of all fields and regions, hexadecimal.
    hash: String,
    total_bytes: u64,
    regions: Vec<Region>,
    structs: Vec<Struct>,
}

#[derive(Debug, Serialize)]
struct Region {
    name: &'static str,
    offset: u64,
    bytes: u64,
    count: u64,
    unit_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Struct {
    name: &'static str,
    bytes: usize,
    fields: Vec<Field>,
}

#[derive(Debug, Serialize)]
struct Field {
    name: &'static str,
    offset: usize,
    bytes: usize,
}

impl LayoutReport {
    pub(crate) fn new(inspected: &Inspected) -> Self {
        let header = inspected.view().header();
        let regions = inspected
            .view()
            .regions()
            .iter()
            .map(|(kind, entry)| Region {
                name: kind.name(),
                offset: entry.offset,
                bytes: entry.bytes,
                count: entry.count,
                unit_bytes: entry.unit_bytes,
            });
        let structs = qtf_shm::layout::STRUCTS.iter().map(|layout| Struct {
            name: layout.name,
            bytes: layout.bytes,
            fields: layout
                .fields
                .iter()
                .map(|field| Field {
                    name: field.name,
                    offset: field.offset,
                    bytes: field.bytes,
                })
                .collect(),
        });
        Self {
            schema: "qtf.shm-inspect.layout/1",
            version: format!("{}.{}", header.layout_major, header.layout_minor),
            hash: format!("{:#018x}", header.layout_hash),
            total_bytes: header.total_bytes,
            regions: regions.collect(),
            structs: structs.collect(),
        }
    }
}

impl Report for LayoutReport {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "layout {} ({}), {}",
            self.version,
            self.hash,
            show::bytes(self.total_bytes)
        )?;
        let mut columns = Columns::new(["region", "offset", "bytes", "count", "each"]);
        for region in &self.regions {
            columns.row([
                region.name.to_owned(),
                format!("{:#x}", region.offset),
                region.bytes.to_string(),
                region.count.to_string(),
                region.unit_bytes.to_string(),
            ]);
        }
        columns.write(out)
    }
}
