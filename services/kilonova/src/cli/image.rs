//! `kilonova image …`.

use std::collections::BTreeMap;
use std::time::SystemTime;

use clap::{Args, Subcommand};
use kilonova_proto::api::v1::{CreateImageRequest, DeleteImageRequest, GetImageRequest, ListImagesRequest};
use kilonova_proto::types::v1::Image;

use super::client::{Client, PAGE, every_page};
use super::failure::Failure;
use super::format::{age, moment, or_dash, pairs};
use super::numbers::whole;
use super::options::{Discard, GlobalOptions, Mutation, key_value, new_request_id};
use super::output::{Output, Row, Style, details};
use super::resolve;

/// What can be done with images.
#[derive(Debug, Clone, Subcommand)]
pub enum ImageCommand {
    /// Store the description of an image.
    Create(Create),
    /// List images by their ids.
    List,
    /// Show one image.
    Show {
        /// Its id.
        id: String,
    },
    /// Remove images; instances that have one keep their copy.
    Delete(Discard),
}

/// What to create.
#[derive(Debug, Clone, Args)]
pub struct Create {
    /// The id, for example cirros-0.6.
    id: String,
    /// Shown to people; the id when not given.
    #[arg(long)]
    name: Option<String>,
    /// Least root disk that holds it, in GiB.
    #[arg(long, value_name = "GIB", default_value_t = 0, allow_negative_numbers = true, value_parser = whole::<u32>)]
    min_disk: u32,
    /// Least memory it runs in, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 0, allow_negative_numbers = true, value_parser = whole::<u32>)]
    min_ram: u32,
    /// Where the driver finds the bytes: a path or URL in its own terms.
    #[arg(long, value_name = "PATH|URL", default_value = "")]
    location: String,
    /// A fact matched against hosts; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    property: Vec<(String, String)>,
    /// Only check; create nothing.
    #[arg(long)]
    validate_only: bool,
    #[command(flatten)]
    mutation: Mutation,
}

impl Row for Image {
    const ONE: &'static str = "image";
    const MANY: &'static str = "images";
    const COLUMNS: &'static [&'static str] =
        &["ID", "NAME", "MIN DISK GIB", "MIN RAM MIB", "LOCATION", "PROPERTIES", "AGE"];

    fn row(&self, now: SystemTime) -> Vec<String> {
        vec![
            self.id.clone(),
            or_dash(&self.name),
            self.min_disk_gib.to_string(),
            self.min_ram_mib.to_string(),
            or_dash(&self.location),
            pairs(&self.properties),
            age(self.create_time.as_ref(), now),
        ]
    }
}

pub(super) async fn run(command: ImageCommand, options: &GlobalOptions) -> Result<(), Failure> {
    let output = Output::new(options);
    let client = Client::connect(options, Some(options.request_limit())).await?;
    match command {
        ImageCommand::Create(create) => {
            let validate_only = create.validate_only;
            let request = request(create);
            let request_id = request.request_id.clone();
            let call = async |request| client.images().create_image(request).await;
            let created = client.call(request, Some(&request_id), call).await?.image;
            output.created(&Vec::from_iter(created), validate_only)
        }
        ImageCommand::List => output.list(&every(&client).await?),
        ImageCommand::Show { id } => {
            let call = async |request| client.images().get_image(request).await;
            let found = client.call(GetImageRequest { image_id: id }, None, call).await?;
            let image = found.image.unwrap_or_default();
            output.one(&image, || describe(&image, output.style()))
        }
        ImageCommand::Delete(discard) => {
            let find = async |id: &str| {
                let request = GetImageRequest { image_id: id.to_owned() };
                let call = async |request| client.images().get_image(request).await;
                client.call(request, None, call).await.map(|_| id.to_owned())
            };
            for image_id in resolve::all(&discard.targets, discard.allow_missing, find).await? {
                let request = DeleteImageRequest {
                    request_id: new_request_id(),
                    image_id,
                    allow_missing: discard.allow_missing,
                };
                client
                    .call(request, None, async |request| client.images().delete_image(request).await)
                    .await?;
            }
            Ok(())
        }
    }
}

async fn every(client: &Client) -> Result<Vec<Image>, Failure> {
    every_page(async |page_token| {
        let request = ListImagesRequest { page_size: PAGE, page_token };
        let page =
            client.call(request, None, async |request| client.images().list_images(request).await).await?;
        Ok((page.images, page.next_page_token))
    })
    .await
}

fn request(create: Create) -> CreateImageRequest {
    CreateImageRequest {
        request_id: create.mutation.id(),
        image: Some(Image {
            id: create.id,
            name: create.name.unwrap_or_default(),
            min_disk_gib: create.min_disk,
            min_ram_mib: create.min_ram,
            location: create.location,
            properties: BTreeMap::from_iter(create.property),
            create_time: None,
        }),
        validate_only: create.validate_only,
    }
}

fn describe(image: &Image, style: Style) -> String {
    let rows = vec![
        ("id", image.id.clone()),
        ("name", or_dash(&image.name)),
        ("min disk", format!("{} GiB", image.min_disk_gib)),
        ("min ram", format!("{} MiB", image.min_ram_mib)),
        ("location", or_dash(&image.location)),
        ("properties", pairs(&image.properties)),
        ("created", moment(image.create_time.as_ref(), SystemTime::now())),
    ];
    details(rows, style)
}
